"""`fleet down`: ends, from elsewhere, the fleet of a home and what a crash left of one."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console

from config.settings import Settings
from workers import embedded, pidfile
from workers.errors import NotThereError
from workers.home import stop
from workers.supervisor import STOP_LIMIT_S

LEFTOVER_LIMIT_S = 10.0
"""How long a process whose supervisor is gone may take to end."""

DOWN_LIMIT_S = 2 * STOP_LIMIT_S + 60
"""The workers, then the dispatcher, then the embedded services."""

POLL_S = 0.1


def down(settings: Settings, console: Console) -> None:
    """End the `fleet up` of this home, wait, and stop what is left; says what it stopped.

    Raises:
        NotThereError: it does not end.
        EmbeddedServiceError: Redis or Postgres cannot be stopped.
    """
    was_up = end_up(settings.home, console)
    was_left = end_leftovers(settings.home, console)
    servers = embedded.running(settings.home, settings.sockets)
    for server in servers:
        if stop(settings, server):
            console.print(f"Stopped the embedded {server.name}.", highlight=False)
    if not (was_up or was_left or servers):
        console.print(f"Nothing runs in {settings.home}.", highlight=False, soft_wrap=True)


def end_up(home: Path, console: Console) -> bool:
    """End a `fleet up`.

    Returns:
        Whether there was one.

    Raises:
        NotThereError: it is still there after `DOWN_LIMIT_S`.
    """
    pid = pidfile.holder(home)
    if pid is None:
        return False
    names = ", ".join(pidfile.recorded(home))
    console.print(f"Stopping `fleet up` (pid {pid}: {names}); workers finish what they run.", highlight=False)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_LIMIT_S
    while pidfile.holder(home) == pid:
        if time.monotonic() > deadline:
            message = f"`fleet up` (pid {pid}) has not ended after {DOWN_LIMIT_S:.0f} s"
            raise NotThereError(
                message, f"look at its terminal, or end it with `kill -9 {pid}` and run this again"
            )
        time.sleep(POLL_S)
    console.print("Stopped `fleet up`, with what it had started.")
    return True


def end_leftovers(home: Path, console: Console) -> bool:
    """End what a `fleet up` started that is gone itself; call it when nobody keeps the fleet up.

    Returns:
        Whether there was anything.
    """
    left = pidfile.recorded(home)
    for process in left.values():
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(left.values(), timeout=LEFTOVER_LIMIT_S)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=LEFTOVER_LIMIT_S)
    for name in left:
        console.print(f"Stopped {name}, left behind by a `fleet up` that was killed.", highlight=False)
    return bool(left)
