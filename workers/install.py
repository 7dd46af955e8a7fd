"""`fleet install mlx`: let launchd keep a Mac's MLX worker running, from login on."""

import os
import plistlib
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from config.settings import environment_for_service
from workers.errors import NotThereError
from workers.procfile import runnable

LABEL = "aria-fleet.worker-mlx"

COMMAND = "fleet worker mlx --wait"

STOP_S = 60
"""How long launchd waits after SIGTERM: a worker finishes what it runs, for 45 s at most."""

PAUSE_S = 10
"""How long launchd waits before it starts again what ended."""

OPEN_FILES = 4096
"""launchd's own limit is 256: each connection and each model file is one."""


def agent(environment: dict[str, str], logs: Path) -> bytes:
    """Write the property list of the launch agent."""
    log = str(logs / f"{LABEL}.log")
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(runnable(COMMAND)),
            "EnvironmentVariables": environment,
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": PAUSE_S,
            "ExitTimeOut": STOP_S,
            # A background process gets slow cores and little of the GPU.
            "ProcessType": "Interactive",
            "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    )


def install(console: Console, *, is_dry_run: bool) -> None:
    """Write the launch agent and load it, in place of an older one.

    Raises:
        NotThereError: this is no Mac, or launchd refuses.
    """
    written = agent(environment_for_service(), Path.home() / "Library/Logs")
    path = Path.home() / "Library/LaunchAgents" / f"{LABEL}.plist"
    if is_dry_run:
        console.print(written.decode(), end="", soft_wrap=True, markup=False, highlight=False)
        return
    if sys.platform != "darwin":
        raise NotThereError(
            "this host has no launchd", f"keep `{COMMAND}` running with what it has: systemd, say"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(written)  # for its owner only: a server's URL may hold a password
    domain = f"gui/{os.getuid()}"
    subprocess.run(["launchctl", "bootout", f"{domain}/{LABEL}"], check=False, capture_output=True)  # noqa: S607
    loaded = subprocess.run(  # the plist, as its owner's agent, in the session that has the GPU
        ["launchctl", "bootstrap", domain, str(path)],  # noqa: S607
        check=False,
        capture_output=True,
        text=True,
    )
    if loaded.returncode:
        raise NotThereError(f"launchd refuses {path}: {loaded.stderr.strip()}", "see `log show --last 1m`")
    console.print(f"{path} is loaded: the worker runs now, and from each login on.", soft_wrap=True)
    console.print(f"Take it out with: launchctl bootout {domain}/{LABEL} && rm {path}", soft_wrap=True)
