"""A part of the fleet that the host keeps running."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.procfile import runnable

PAUSE_S = 10
"""How long the host waits before it starts again what ended."""

OPEN_FILES = 4096
"""The usual limits are 256 on a Mac and 1,024 on Linux: each connection and each model file is one."""


@dataclass(frozen=True)
class Service:
    """A process that is started with the host or its user's login, and again whenever it ends."""

    process: str
    """Its name, as the Procfile has it."""
    command: str
    environment: Mapping[str, str]
    stop_s: int
    """How long it may take to end once it is told to."""

    @property
    def program(self) -> tuple[str, ...]:
        return runnable(self.command)


def write(path: Path, written: bytes) -> None:
    """Write a file that only its owner can read: a server's URL may hold a password."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # an older one may be open to others
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(written)
