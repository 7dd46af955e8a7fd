"""This host: its disks, ports, sockets and limits, and what is installed on it."""

import errno
import os
import platform
import resource
import shutil
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
from packaging.requirements import Requirement

from config.settings import Settings
from workers.doctor.finding import Finding, error, note, ok, warning
from workers.doctor.fleet import Up
from workers.doctor.look import Silence
from workers.doctor.models import size
from workers.doctor.place import host_of
from workers.embedded.postgres import PORT
from workers.embedded.service import MAX_SOCKET_BYTES

FULL_BYTES = 500_000_000
"""With less, a server that writes its log may stop at any time."""

NEARLY_FULL_BYTES = 2_000_000_000

FEW_FILES = 1024
"""Open at once: each connection and each model file is one. macOS gives a shell 256."""

PACKAGE = "aria-fleet"

PROGRAMS: Mapping[str, str] = {"flower": "Flower", "dashboard": "the dashboard"}
"""The processes that listen on a port of their own, and what people call them."""


@dataclass(frozen=True)
class Disk:
    """A file system, and what of the fleet is on it."""

    holds: tuple[str, ...]
    free_bytes: int


@dataclass(frozen=True)
class Listener:
    """Who listens on a port."""

    pid: int | None
    """None: the system does not tell."""
    name: str | None
    is_the_program: bool = False
    """Whether it is the one that should."""


@dataclass(frozen=True)
class HostFacts:
    """What a host has for a fleet."""

    disks: Sequence[Disk]
    closed: Path | None
    """What of the home may not be written; None: all may."""
    listeners: Mapping[str, Listener | None]
    """By program; None: its port is free."""
    sockets: Mapping[str, int]
    """Lengths of the paths in bytes, by variable."""
    files: int
    """That a process may have open."""
    python: str
    unmet: Sequence[tuple[str, str | None, str | None]]
    """(what is asked for, the version that is here, the extra that asks); None: none is here, no extra."""


def look(settings: Settings) -> HostFacts:
    """Look at it."""
    return HostFacts(
        disks=disks(settings),
        closed=closed(settings.home),
        listeners={program: listener(program, *address_of(settings, program)) for program in PROGRAMS},
        sockets=sockets(settings),
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        python=platform.python_version(),
        unmet=unmet(host_is_needed=settings.redis_is_embedded or settings.database_is_embedded),
    )


def disks(settings: Settings) -> list[Disk]:
    """Measure the file systems that the fleet writes to."""
    places = {"the home": settings.home, "the models": settings.models}
    with suppress(ImportError):
        from huggingface_hub import constants  # noqa: PLC0415 - takes a tenth of a second

        places["the Hugging Face cache"] = Path(constants.HF_HUB_CACHE)
    if settings.redis_is_embedded:
        places["Redis's data"] = settings.home / "redis"
    if settings.database_is_embedded:
        places["Postgres's data"] = settings.home / "postgres"
    on: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for what, path in places.items():
        there = existing(path)
        on[there.stat().st_dev].append((what, there))
    return [Disk(tuple(what for what, _ in held), shutil.disk_usage(held[0][1]).free) for held in on.values()]


def existing(path: Path) -> Path:
    """Find the innermost part of a path that exists."""
    return next(part for part in (path, *path.parents) if reachable(part))


def reachable(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


def closed(home: Path) -> Path | None:
    there = existing(home)
    return None if os.access(there, os.W_OK | os.X_OK) else there


def address_of(settings: Settings, program: str) -> tuple[str, int]:
    """Tell on which address and port a program listens."""
    if program == "flower":
        return settings.flower_address, settings.flower_port
    return settings.dashboard_address, settings.dashboard_port


def listener(program: str, address: str, port: int) -> Listener | None:
    """Tell who listens where a program should; None: nobody."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.create_server((address, port), family=family):
            return None
    except OSError as fault:
        if fault.errno != errno.EADDRINUSE:
            return Listener(None, fault.strerror)
    with suppress(psutil.Error):  # macOS tells only root
        for connection in psutil.net_connections("tcp"):
            is_it = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if is_it and connection.pid:
                process = psutil.Process(connection.pid)
                return Listener(process.pid, process.name(), program in process.cmdline())
    return Listener(None, None)


def sockets(settings: Settings) -> dict[str, int]:
    """Measure the paths of the sockets that the settings name."""
    found: dict[str, int] = {}
    redis = urlsplit(settings.redis_url)
    if redis.scheme == "unix":
        found["FLEET_REDIS_URL"] = len(os.fsencode(unquote(redis.path)))
    if (folder := host_of(settings.database_url)).startswith("/"):
        found["FLEET_DATABASE_URL"] = len(os.fsencode(f"{folder}/.s.PGSQL.{PORT}"))
    return found


def unmet(*, host_is_needed: bool) -> list[tuple[str, str | None, str | None]]:
    """List the packages that are not as this fleet asks for them."""
    extras = ("", "host") if host_is_needed else ("",)
    found: list[tuple[str, str | None, str | None]] = []
    for line in requires(PACKAGE) or ():
        asked = Requirement(line)
        marker = asked.marker
        extra = next((each for each in extras if not marker or marker.evaluate({"extra": each})), None)
        if extra is None:
            continue
        here = installed(asked.name)
        if here is None or not asked.specifier.contains(here, prereleases=True):
            found.append((f"{asked.name} {asked.specifier}", here, extra or None))
    return found


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def findings(settings: Settings, seen: HostFacts | Silence, up: Up) -> Iterator[Finding]:
    """Judge it.

    Args:
        settings: of this host.
        seen: by `look`.
        up: the `fleet up` of this home.
    """
    if isinstance(seen, Silence):
        yield error("host.looked_at", f"this host {seen.why}", "is a file system away that the home is on?")
        return
    yield from (of_disk(disk) for disk in seen.disks)
    if seen.closed:
        yield error(
            "host.home", f"{seen.closed} may not be written", "set FLEET_HOME to a folder of your own"
        )
    for program, found in seen.listeners.items():
        yield of_port(program, address_of(settings, program)[1], found, up)
    yield from of_sockets(seen.sockets)
    yield of_files(seen.files)
    yield from of_packages(seen)


def of_disk(disk: Disk) -> Finding:
    found = f"{size(disk.free_bytes)} are free for {', '.join(disk.holds)}"
    if disk.free_bytes < FULL_BYTES:
        return error("host.disk", found, "make room: a server that cannot write stops the fleet")
    if disk.free_bytes < NEARLY_FULL_BYTES:
        return warning("host.disk", found, "make room, or move it: FLEET_HOME, FLEET_MODELS")
    return ok("host.disk", found)


def of_port(program: str, port: int, listener: Listener | None, up: Up) -> Finding:
    check, name = f"host.{program}_port", PROGRAMS[program]
    if listener is None:
        return ok(check, f"port {port} is free for {name}")
    if listener.is_the_program:
        return ok(check, f"{name} listens on port {port}")
    if listener.pid is None and program in up.processes:
        return ok(check, f"port {port} is taken, by {name} it seems (`fleet up` runs it)")
    who = f"{listener.name} (pid {listener.pid})" if listener.pid else listener.name or "another program"
    return warning(
        check,
        f"{name} cannot use port {port}: {who}",
        f"set FLEET_{program.upper()}_PORT to another port, or end what listens there",
    )


def of_sockets(sockets: Mapping[str, int]) -> Iterator[Finding]:
    long = {variable: length for variable, length in sockets.items() if length > MAX_SOCKET_BYTES}
    for variable, length in long.items():
        yield error(
            "host.sockets",
            f"the path of a socket has {length} bytes ({variable}), a system allows {MAX_SOCKET_BYTES}",
            f"name a shorter path in {variable}",
        )
    if sockets and not long:
        yield ok("host.sockets", f"the paths of sockets are short enough ({max(sockets.values())} bytes)")


def of_files(files: int) -> Finding:
    if files == resource.RLIM_INFINITY:
        return ok("host.open_files", "a process may open any number of files")
    if files >= FEW_FILES:
        return ok("host.open_files", f"a process may open {files:,} files")
    return warning(
        "host.open_files", f"a process may open only {files} files", "`ulimit -n 4096` before `fleet up`"
    )


def of_packages(seen: HostFacts) -> Iterator[Finding]:
    for asked, here, extra in seen.unmet:
        what = f"{PACKAGE}[{extra}]" if extra else PACKAGE
        found = f"{here} is installed" if here else "it is not installed"
        yield error("host.packages", f"{what} asks for {asked}: {found}", f"`pip install '{what}'`")
    if installed(PACKAGE) is None:
        yield note("host.packages", f"{PACKAGE} is not installed: what it asks for is not known")
    elif not seen.unmet:
        yield ok("host.packages", f"Python {seen.python}, and every package in a version that fits")
