"""A disk that can be full: a file system in memory, of which only as much is left as is used."""

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_MB = 2048

PAGE = 4096

TRIES = 100


class Disk:
    """A tmpfs; shrinking it to what it holds fills it, without anything being written."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self) -> None:
        for _ in range(TRIES):  # it is written to meanwhile, and no file system shrinks below what it holds
            used = shutil.disk_usage(self.place).used
            with suppress(subprocess.CalledProcessError):
                self.remount(f"{max(used, PAGE) // PAGE * PAGE + PAGE}")
                return
        message = f"{self.place} could not be shrunk in {TRIES} tries"
        raise TimeoutError(message)

    def free(self) -> None:
        self.remount(f"{SIZE_MB}m")

    def remount(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.place], check=True, capture_output=True)


@contextmanager
def a_disk(place: Path) -> Generator[Disk | None]:
    """Mount one; None where that is not allowed, or unknown: it takes root, and Linux."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=755", "fleet-chaos", place]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)
