"""`fleet db backup` and `fleet db restore`: the ledger as one file, by Postgres's own programs."""

import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from config.settings import Settings, environment_with
from ledger.migrate import current_version, migrate
from workers import embedded
from workers.errors import BackupError, NotThereError
from workers.export import whole


def back_up(settings: Settings, target: Path) -> int:
    """Write the ledger, as it is at this moment, into a file that is there whole or not at all.

    Returns:
        Its size in bytes.

    Raises:
        BackupError: there is no ledger, or `pg_dump` failed.
        NotThereError: there is no `pg_dump`.
    """
    with postgres(settings), whole(target) as file:
        if current_version(settings.database_url) is None:
            raise BackupError("the database has no ledger", "see FLEET_HOME and FLEET_DATABASE_URL")
        run(settings, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", output=file)
    return target.stat().st_size


def restore(settings: Settings, source: Path) -> str:
    """Make an empty database what a backup says, and bring it to the schema of this version.

    Returns:
        The schema version that the database now has.

    Raises:
        BackupError: the database has a ledger already, or `pg_restore` failed; nothing was changed.
        NotThereError: there is no `pg_restore`.
    """
    with postgres(settings), source.open("rb") as file:
        if current_version(settings.database_url) is not None:
            raise BackupError(
                "the database has a ledger already",
                f"stop the fleet and move {settings.home / 'postgres'} away"
                if settings.database_is_embedded
                else "name an empty one in FLEET_DATABASE_URL",
            )
        with NamedTemporaryFile() as chosen:
            run(settings, "pg_restore", "--list", read=file, output=chosen.file)
            leave_out_rights(Path(chosen.name))
            file.seek(0)
            options = ("--no-owner", "--exit-on-error", "--single-transaction", f"--use-list={chosen.name}")
            run(settings, "pg_restore", *options, read=file)
        return migrate(settings.database_url)


def leave_out_rights(contents: Path) -> None:
    """Take the policies out of the list of what a backup holds: their roles may not be on this server."""
    lines = contents.read_text().splitlines(keepends=True)
    kept = [line for line in lines if " POLICY " not in line and " ROW SECURITY " not in line]
    contents.write_text("".join(kept))


@contextmanager
def postgres(settings: Settings) -> Generator[None]:
    """Have the embedded Postgres for a while, where it is that and does not run."""
    server = (
        embedded.start_postgres(settings.home, settings.sockets) if settings.database_is_embedded else None
    )
    try:
        yield
    finally:
        if server is not None and not server.was_running:
            embedded.stop_postgres(settings.home, settings.sockets)


def run(
    settings: Settings,
    name: str,
    *arguments: str,
    output: IO[bytes] | None = None,
    read: IO[bytes] | None = None,
) -> None:
    """Run one of Postgres's programs on the ledger; everybody can read a command line, so it has no password.

    Raises:
        BackupError: it failed.
        NotThereError: it is not on this host.
    """
    where = conninfo_to_dict(settings.database_url)
    password = str(where.pop("password", None) or "")
    done = subprocess.run(
        [program(name), *arguments, f"--dbname={make_conninfo('', **where)}"],
        env=environment_with({"PGPASSWORD": password} if password else {}),
        stdin=read or subprocess.DEVNULL,
        stdout=output or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().replace(password or "\0", "...")
        raise BackupError(f"{name} failed: {said}", "mend what it says, and try again")


def program(name: str) -> Path:
    """Find a program of Postgres, the newest there is: one that is older than its server refuses to work.

    Raises:
        NotThereError: it is not on this host.
    """
    embedded_one, yours = embedded.postgres_program(name), shutil.which(name)
    found = [Path(each) for each in (embedded_one, yours) if each]
    if not found:
        raise NotThereError(
            f"there is no {name} on this host",
            "install Postgres's client programs, at least of the server's version",
        )
    return max(found, key=version_of)


def version_of(found: Path) -> tuple[int, ...]:
    """Tell a program's version out of `pg_dump (PostgreSQL) 18.6`; (0,): it does not say."""
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\) (\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in version[1].split(".")) if version else (0,)
