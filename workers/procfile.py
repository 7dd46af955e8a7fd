"""The Procfile: which processes make a fleet, and how this installation starts them."""

import shlex
import shutil
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from honcho.environ import parse_procfile

PLACES = (Path(__file__).with_name("Procfile"), Path(__file__).parents[1] / "Procfile")
"""In an installed wheel it is beside this module, in a clone at the root."""

UNLISTED = {f"worker-{lane}": f"fleet worker {lane}" for lane in ("free", "paid", "local", "echo")}
"""Not in the Procfile: without a key, or a model, they end, and honcho ends all with them."""

DASHBOARD = "dashboard"

Command = tuple[str, ...]


def processes(lanes: Collection[str]) -> dict[str, Command]:
    """List the processes of a host, as the Procfile orders them.

    Args:
        lanes: those that have a model on this host; workers of the others are left out.

    Returns:
        The command of each process, by its name.
    """
    return {
        name: runnable(command)
        for name, command in listed().items()
        if (
            name.removeprefix("worker-") in lanes if is_worker(name) else name != DASHBOARD or has_dashboard()
        )
    }


def listed() -> dict[str, str]:
    """List the commands of all processes that a host can run, as the Procfile orders them."""
    place = next(place for place in PLACES if place.exists())
    return {**parse_procfile(place.read_text()).processes, **UNLISTED}


def has_dashboard() -> bool:
    """Tell whether this installation has what `fleet dashboard` needs."""
    return find_spec("fastapi") is not None


def is_worker(process: str) -> bool:
    return process.startswith("worker-")


def runnable(command: str) -> Command:
    """Turn `fleet ...` into the `fleet` of this installation, which need not be on the PATH."""
    program, *arguments = shlex.split(command)
    if program != "fleet":
        return (program, *arguments)
    script = shutil.which("fleet", path=str(Path(sys.executable).parent))
    return (script, *arguments) if script else (sys.executable, "-m", "workers.cli", *arguments)
