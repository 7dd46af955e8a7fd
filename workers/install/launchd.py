"""A launch agent of the user, on a Mac: Metal needs a user's session."""

import os
import plistlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from workers.errors import NotThereError
from workers.install.service import OPEN_FILES, PAUSE_S, Service, write


def label_of(service: Service) -> str:
    return f"aria-fleet.{service.process}"


def files(service: Service, environment: Mapping[str, str]) -> dict[Path, bytes]:
    """Write the property list of the launch agent, by its place."""
    label = label_of(service)
    log = str(Path.home() / "Library/Logs" / f"{label}.log")
    agent = {
        "Label": label,
        "ProgramArguments": list(service.program),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": PAUSE_S,
        "ExitTimeOut": service.stop_s,
        # A background process gets slow cores and little of the GPU.
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return {Path.home() / "Library/LaunchAgents" / f"{label}.plist": plistlib.dumps(agent)}


def start(service: Service, console: Console) -> None:
    """Write the launch agent and load it, in place of an older one.

    Raises:
        NotThereError: launchd refuses.
    """
    [(path, written)] = files(service, service.environment).items()
    write(path, written)
    domain = f"gui/{os.getuid()}"
    label = label_of(service)
    subprocess.run(["launchctl", "bootout", f"{domain}/{label}"], check=False, capture_output=True)  # noqa: S607
    loaded = subprocess.run(  # the plist, as its owner's agent, in the session that has the GPU
        ["launchctl", "bootstrap", domain, str(path)],  # noqa: S607
        check=False,
        capture_output=True,
        text=True,
    )
    if loaded.returncode:
        raise NotThereError(f"launchd refuses {path}: {loaded.stderr.strip()}", "see `log show --last 1m`")
    console.print(f"{path} is loaded: `{service.command}` runs now, and from each login on.", soft_wrap=True)
    console.print(f"Take it out with: launchctl bootout {domain}/{label} && rm {path}", soft_wrap=True)
