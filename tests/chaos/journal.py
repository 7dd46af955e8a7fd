"""What really happened, written by whoever did it: a line of JSON for each event, apart from the ledger."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODE = 0o644


class Journal:
    """A file that several processes append to; a line is one write, so a kill leaves it whole or undone."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": time.time(), "pid": os.getpid(), **fields})
        os.write(self.file, f"{line}\n".encode())


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Read every event, in the order in which they were written."""
    if path.exists():
        with path.open() as lines:
            yield from map(json.loads, lines)
