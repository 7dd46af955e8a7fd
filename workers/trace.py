"""A workload trace: one request a line in a CSV file, from this fleet or from anybody else."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from config.catalog import Catalog
from routing.simulation.policies import Arrival
from routing.task import Needs, Task
from workers.errors import TraceError

COLUMNS: Mapping[str, Sequence[str]] = {
    "timestamp": ("timestamp", "time", "arrivaltime", "acceptedat"),
    "prompt_tokens": ("prompttokens", "contexttokens", "inputtokens", "requesttokens"),
    "completion_tokens": ("completiontokens", "generatedtokens", "outputtokens", "responsetokens"),
    "profile": ("profile",),
}
"""What each column may be called; case, blanks, `_` and `-` do not count.

Source: the traces of Azure/AzurePublicDataset (2023, 2024) and of BurstGPT, 2026-11.
"""

MOST_TOKENS = 100_000_000
"""In one request; more is not a count of tokens."""


def read_trace(
    path: Path,
    catalog: Catalog,
    *,
    day: date,
    profile: str | None = None,
    deadline_s: float | None = None,
) -> list[Arrival]:
    """Read a trace; its first request comes at its time of day on `day`, the others as long after it.

    Args:
        path: of a CSV file with a header.
        catalog: knows the profiles.
        day: UTC. Prices, limits and retired models are those of the day.
        profile: of all requests, where the file has no such column.
        deadline_s: that each request gets.

    Raises:
        TraceError: says which line and column, what was expected and what was found.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            requests = list(requests_in(path, csv.reader(file, strict=True), profile))
    except OSError as error:
        raise TraceError(path, 0, "", "a CSV file", error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise TraceError(path, 0, "", "text in UTF-8", f"byte {error.object[error.start]:#04x}") from error
    if not requests:
        raise TraceError(path, 2, "", "at least one request below the header", "the end of the file")
    for each in requests:
        if each.profile not in catalog.profiles:
            known = ", ".join(sorted(catalog.profiles))
            raise TraceError(path, each.line, "profile", f"one of {known}", repr(each.profile))
    first = min(each.at for each in requests)
    begin = datetime.combine(day, first.timetz())
    return [
        arrival(number, each, begin + (each.at - first), catalog, deadline_s)
        for number, each in enumerate(requests)
    ]


class Request(NamedTuple):
    """A line of a trace."""

    line: int
    at: datetime
    prompt_tokens: int
    completion_tokens: int
    profile: str


def arrival(
    number: int, request: Request, at: datetime, catalog: Catalog, deadline_s: float | None
) -> Arrival:
    # The trace has counted: nothing is estimated, and what was generated was allowed.
    longest = max(catalog.profile(request.profile).max_tokens, request.completion_tokens)
    task = Task(
        id=UUID(int=number),
        profile=request.profile,
        focus=None,
        model=None,
        agent="trace",
        priority=3,
        not_before=None,
        deadline=None if deadline_s is None else at + timedelta(seconds=deadline_s),
        needs=Needs(prompt_tokens=request.prompt_tokens, max_tokens=longest),
        accepted_at=at,
        patient_until=at,
    )
    return Arrival(task, request.prompt_tokens, request.completion_tokens)


def requests_in(path: Path, rows: Iterator[Sequence[str]], profile: str | None) -> Iterator[Request]:
    try:
        header = next(rows, None)
        if not header:
            raise TraceError(path, 1, "", f"a header with {', '.join(COLUMNS)}", "nothing")
        places = columns_of(path, header, profile)
        for line, row in enumerate(rows, start=2):
            if any(cell.strip() for cell in row):
                yield request(path, line, row, places, profile)
    except csv.Error as error:
        raise TraceError(path, 0, "", "comma-separated values", str(error)) from error


def columns_of(path: Path, header: Sequence[str], profile: str | None) -> dict[str, int]:
    """Find the place of each column.

    Raises:
        TraceError: one is not there.
    """
    plain = ["".join(letter for letter in name.lower() if letter.isalnum()) for name in header]
    places: dict[str, int] = {}
    for name, aliases in COLUMNS.items():
        found = [plain.index(alias) for alias in aliases if alias in plain]
        if found:
            places[name] = found[0]
        elif name != "profile":
            raise TraceError(path, 1, name, "a column of that name", ", ".join(header))
        elif profile is None:
            what = "a column of that name, or --profile for all requests"
            raise TraceError(path, 1, name, what, ", ".join(header))
    return places


def request(
    path: Path, line: int, row: Sequence[str], places: Mapping[str, int], profile: str | None
) -> Request:
    """Read one line.

    Raises:
        TraceError: a cell is missing or not what it should be.
    """
    cells: dict[str, str] = {}
    for name, place in places.items():
        if place >= len(row):
            raise TraceError(path, line, name, f"{place + 1} cells or more", f"{len(row)}")
        cells[name] = row[place].strip()
    return Request(
        line,
        moment_in(path, line, cells["timestamp"]),
        tokens_in(path, line, "prompt_tokens", cells["prompt_tokens"]),
        tokens_in(path, line, "completion_tokens", cells["completion_tokens"]),
        cells.get("profile") or profile or "",
    )


def moment_in(path: Path, line: int, cell: str) -> datetime:
    """Read a time: ISO 8601, in UTC where it names no zone, or seconds from any begin."""
    try:
        seconds = float(cell)
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        what = "a time like 2026-11-23T18:17:03.5, or seconds"
        raise TraceError(path, line, "timestamp", what, repr(cell)) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def tokens_in(path: Path, line: int, column: str, cell: str) -> int:
    if not cell.isdecimal() or int(cell) > MOST_TOKENS:
        raise TraceError(path, line, column, "a whole number of tokens", repr(cell))
    return int(cell)
