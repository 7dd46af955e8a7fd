"""A unit of the user's own systemd, on Linux: it needs no root, and nothing of it runs as root."""

import getpass
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from workers.errors import NotThereError
from workers.install.service import OPEN_FILES, PAUSE_S, Service, write

UNIT = """\
[Unit]
Description=Aria Fleet: {command}
# Servers on other hosts may be away for longer than a few tries.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={program}
EnvironmentFile={environment}
Restart=always
RestartSec={pause_s}
# It is told to end, not what it runs; what is left of it then is killed.
KillMode=mixed
TimeoutStopSec={stop_s}
LimitNOFILE={open_files}
UMask=0077
# What a user's systemd can enforce everywhere; the rest wants namespaces, which not every host lets it make.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""

LINGERS = Path("/var/lib/systemd/linger")
"""Has a file for each user whose services run without a login."""


def name_of(service: Service) -> str:
    return f"aria-fleet-{service.process}.service"


def files(service: Service, environment: Mapping[str, str]) -> dict[Path, bytes]:
    """Write the unit and the file of its variables, by their places.

    The variables are in a file of their own because a unit's are shown by `systemctl show`.
    """
    folder = Path.home() / ".config"
    variables = folder / "aria-fleet" / f"{service.process}.env"
    unit = UNIT.format(
        command=service.command,
        program=" ".join(map(quoted, service.program)),
        environment=str(variables).replace("%", "%%"),
        pause_s=PAUSE_S,
        stop_s=service.stop_s,
        open_files=OPEN_FILES,
    )
    lines = "".join(f"{name}={value_of(value)}\n" for name, value in environment.items())
    return {folder / "systemd/user" / name_of(service): unit.encode(), variables: lines.encode()}


def quoted(word: str) -> str:
    """Write a word of ExecStart, where `%` and `$` mean something else."""
    escaped = re.sub(r'(["\\])', r"\\\1", word).replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def value_of(value: str) -> str:
    """Write a value of an environment file, where a backslash makes these four ordinary."""
    escaped = re.sub(r'(["\\`$])', r"\\\1", value)
    return f'"{escaped}"'


def start(service: Service, console: Console) -> None:
    """Write the unit, enable it and start it, in place of an older one.

    Raises:
        NotThereError: no systemd runs here for this user, or it refuses the unit.
    """
    name = name_of(service)
    ask(
        "show-environment",
        otherwise=f"keep `{service.command}` running by what this host has instead: in a "
        "container the engine does it (docker-compose.yml shows how); where systemd runs, log in as the user "
        "that the fleet is to have, not by `sudo` or `su`",
    )
    for path, written in files(service, service.environment).items():
        write(path, written)
    see = f"see `journalctl --user --unit {name}`"
    ask("daemon-reload", otherwise=see)
    ask("enable", name, otherwise=see)
    ask("restart", name, otherwise=see)
    unit, variables = files(service, {})
    console.print(f"{unit} is started: `{service.command}` runs now.", soft_wrap=True)
    user = getpass.getuser()
    if not (LINGERS / user).exists():
        console.print(
            f"It ends with your last login; let it run without one, and from the start of this host on: "
            f"loginctl enable-linger {user}",
            soft_wrap=True,
        )
    console.print(f"Read its log with: journalctl --user --unit {name} --follow", soft_wrap=True)
    console.print(
        f"Take it out with: systemctl --user disable --now {name} && rm {unit} {variables}", soft_wrap=True
    )


def ask(*words: str, otherwise: str) -> None:
    """Ask the user's systemd for something.

    Raises:
        NotThereError: it does not do it; says what to do.
    """
    command = ("systemctl", "--user", *words)
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise NotThereError("this host has no systemd", otherwise) from None
    if done.returncode:
        said = (done.stderr.strip() or f"status {done.returncode}").splitlines()[0]
        what = (
            f"no systemd runs here for the user {getpass.getuser()} ({said})"
            if words == ("show-environment",)
            else f"`{' '.join(command)}` failed: {said}"
        )
        raise NotThereError(what, otherwise)
