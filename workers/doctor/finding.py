"""What an examination finds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")
"""From all well to: work is lost, or cannot be done."""

EXIT_STATUS: dict[Level, int] = {"ok": 0, "note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """`part.what`, e.g. `redis.append_only`; the same in every version, for programs."""
    level: Level
    found: str
    what_to_do: str | None = None
    """None where there is nothing to do."""

    @property
    def part(self) -> str:
        return self.check.partition(".")[0]


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def note(check: str, found: str, what_to_do: str | None = None) -> Finding:
    return Finding(check, "note", found, what_to_do)


def warning(check: str, found: str, what_to_do: str) -> Finding:
    return Finding(check, "warning", found, what_to_do)


def error(check: str, found: str, what_to_do: str) -> Finding:
    return Finding(check, "error", found, what_to_do)


def worst(findings: Iterable[Finding]) -> Level:
    """Tell the gravest level among findings; ok where there are none."""
    found = [finding.level for finding in findings]
    return LEVELS[max(map(LEVELS.index, found), default=0)]


def counted(count: int, what: str) -> str:
    """Write how many there are of something."""
    return f"{count} {what}{'' if count == 1 else 's'}"
