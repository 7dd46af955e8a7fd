"""Who keeps the fleet of a home up, and what it has started.

The lock says that somebody does, and is given back by a crash of any kind; its text says who. A second
file names what was started, so that it can be ended even after a crash.
"""

import fcntl
import json
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from workers.errors import FleetIsUpError

SAME_MOMENT_S = 0.1


@contextmanager
def hold(home: Path) -> Generator[None]:
    """Be the only one that keeps the fleet of a home up.

    Raises:
        FleetIsUpError: somebody else does.
    """
    with lock_of(home).open("a+") as lock:
        if not locked_now(lock):
            raise FleetIsUpError(written_pid(home), str(home))
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def holder(home: Path) -> int | None:
    """Tell the pid of who keeps the fleet of a home up; None: nobody does."""
    with suppress(FileNotFoundError), lock_of(home).open() as lock:
        return None if locked_now(lock) else written_pid(home)
    return None


def record(home: Path, pids: Mapping[str, int]) -> None:
    """Write down what was started, by name; an end of this process leaves the names behind."""
    started: dict[str, tuple[int, float]] = {}
    for name, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            started[name] = (pid, psutil.Process(pid).create_time())
    aside = record_of(home).with_suffix(".new")
    aside.write_text(json.dumps(started))
    aside.replace(record_of(home))


def recorded(home: Path) -> dict[str, psutil.Process]:
    """Find what was written down and still runs, by name."""
    try:
        started: dict[str, tuple[int, float]] = json.loads(record_of(home).read_text())
    except FileNotFoundError:
        return {}
    found: dict[str, psutil.Process] = {}
    for name, (pid, created) in started.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            # A pid alone may be somebody else's by now.
            if (
                abs(process.create_time() - created) < SAME_MOMENT_S
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found[name] = process
    return found


def lock_of(home: Path) -> Path:
    return home / "up.lock"


def record_of(home: Path) -> Path:
    return home / "up.json"


def written_pid(home: Path) -> int:
    """Read who holds the lock; whoever took it just now may not have written yet."""
    while not (text := lock_of(home).read_text()):
        time.sleep(SAME_MOMENT_S)
    return int(text)


def locked_now(lock: IO[str]) -> bool:
    """Take a file's lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
