"""`fleet export`: tasks and attempts as JSON lines or Parquet."""

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal
from uuid import UUID

from ledger.connect import ROWS_AT_ONCE, connect
from ledger.export import Table, rows
from workers.errors import NotThereError

Format = Literal["jsonl", "parquet"]
Row = dict[str, Any]

ROWS_IN_A_GROUP = 50_000
"""Of a Parquet file: what is in memory at once."""


def export(
    database_url: str,
    table: Table,
    target: Path,
    *,
    form: Format,
    since: datetime,
    with_text: bool,
    on_progress: Callable[[int], object],
) -> int:
    """Write rows into a file that is there whole or not at all.

    Args:
        database_url: the ledger's.
        table: which.
        target: the file; one that is there is replaced.
        form: JSON lines: one object for each row, decimals as text. Parquet: JSON columns as text.
        since: tasks by when they were accepted, attempts by when they were queued.
        with_text: also prompts, answers and the words of errors.
        on_progress: called now and then with the number of rows so far.

    Returns:
        How many rows there are.

    Raises:
        NotThereError: Parquet is asked for, and what writes it is not installed.
    """
    write = write_parquet if form == "parquet" else write_lines
    count = 0

    def counted(found: Iterable[Row]) -> Iterator[Row]:
        nonlocal count
        for row in found:
            count += 1
            if count % ROWS_AT_ONCE == 0:
                on_progress(count)
            yield row

    with (
        connect(database_url, name="export") as db,
        closing(rows(db, table, since, with_text=with_text)) as found,
        whole(target) as file,
    ):
        write(file, table, counted(found))
    return count


@contextmanager
def whole(target: Path) -> Generator[IO[bytes]]:
    """Open a file that takes its name only once it is complete."""
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            yield file
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)


def write_lines(file: IO[bytes], _: Table, found: Iterable[Row]) -> None:
    for row in found:
        file.write(json.dumps(row, default=as_json, separators=(",", ":")).encode() + b"\n")


def as_json(value: object) -> str:
    """Write what JSON has no form for; dollars as text, because a float would round them."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    raise TypeError(type(value).__name__)


def write_parquet(file: IO[bytes], table: Table, found: Iterable[Row]) -> None:
    """Write Parquet, group by group.

    Raises:
        NotThereError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        what = "Parquet needs pyarrow, which is not installed"
        raise NotThereError(what, "install aria-fleet[parquet], or take --format jsonl") from error

    text, moment, whole_number = pa.string(), pa.timestamp("us", "UTC"), pa.int64()
    dollars = pa.decimal128(18, 9)
    columns: dict[Table, dict[str, Any]] = {
        "tasks": {
            **dict.fromkeys(("id", "state", "profile", "focus", "model", "agent"), text),
            "priority": whole_number,
            **dict.fromkeys(("not_before", "deadline"), moment),
            **dict.fromkeys(("needs", "metadata"), text),
            "attempts": whole_number,
            **dict.fromkeys(("accepted_at", "finished_at"), moment),
            "error": text,
            "text_removed_at": moment,
            **dict.fromkeys(("error_text", "request"), text),
        },
        "attempts": {
            "task_id": text,
            "number": whole_number,
            **dict.fromkeys(("profile", "agent", "model", "tier", "queue"), text),
            "epoch": whole_number,
            "passed_over": text,
            "reserved_usd": dollars,
            "reserved_tokens": whole_number,
            "queued_at": moment,
            "worker": text,
            **dict.fromkeys(("claimed_at", "lease_until", "finished_at"), moment),
            "outcome": text,
            **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens"), whole_number),
            "tokens_are_estimated": pa.bool_(),
            "cost_usd": dollars,
            "first_token_s": pa.float32(),
            **dict.fromkeys(("error", "error_text", "answer"), text),
        },
    }
    schema = pa.schema(columns[table])
    found = iter(found)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := [for_parquet(row) for row in islice(found, ROWS_IN_A_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema))


def for_parquet(row: Row) -> Row:
    return {name: plain(value) for name, value in row.items()}


def plain(value: object) -> object:
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return str(value) if isinstance(value, UUID) else value
