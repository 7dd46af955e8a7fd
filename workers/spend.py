"""`fleet spend`: what was used, by what, and what was saved against everything on the paid primary."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from config.catalog import Catalog
from config.primary import primary_prices
from ledger.connect import Connection
from ledger.spend import THE_END, By, Spend, spend, together
from workers.completion import plain
from workers.words import dollars

CENT_OF_A_CENT = Decimal("0.0001")

FIELDS = (
    "attempts",
    "calls",
    "succeeded",
    "unpriced",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "cost_usd",
    "primary_usd",
    "saved_usd",
)


@dataclass(frozen=True)
class Report:
    """What was used in a time, by group."""

    since: datetime
    by: Sequence[By]
    primary: str
    """The model that what was saved is measured against."""
    rows: list[Spend]

    @property
    def total(self) -> Spend | None:
        """Add up all groups; None: there are none."""
        return together(self.rows) if self.rows else None


def report(
    db: Connection, catalog: Catalog, since: datetime, until: datetime = THE_END, *, by: Sequence[By] = ()
) -> Report:
    """Add up what was used in a time."""
    rows = spend(db, since, until, by=by, primary=primary_prices(catalog))
    return Report(since, by, catalog.routing.primary, rows)


def as_json(found: Report) -> dict[str, Any]:
    return {
        "since": found.since.isoformat(),
        "primary": found.primary,
        "rows": [row_of(found, row) for row in found.rows],
        "total": figures(found.total) if found.total else None,
    }


def row_of(found: Report, row: Spend) -> dict[str, Any]:
    return {**dict(zip(found.by, row.key, strict=True)), **figures(row)}


def figures(row: Spend) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in FIELDS}
    return {name: plain(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def write_csv(found: Report, file: TextIO) -> None:
    """Write a line for each group, and one with the names before them; what is unknown is empty."""
    writer = csv.DictWriter(file, [*found.by, *FIELDS])
    writer.writeheader()
    writer.writerows(row_of(found, row) for row in found.rows)


def show(console: Console, found: Report) -> None:
    """Print it."""
    if not found.rows:
        console.print(f"No attempt has ended since {found.since:%Y-%m-%d %H:%M} UTC.")
        return
    table = Table(box=None, header_style="bold", show_footer=len(found.rows) > 1)
    total = cells(found.total) if found.total else []
    for place, name in enumerate(found.by):
        table.add_column(name, "all" if place == 0 else "", overflow="fold")
    names = ("attempts", "tokens in", "tokens out", "cost", f"on {found.primary}", "saved")
    for name, sum_of_all in zip(names, total, strict=True):
        table.add_column(name, sum_of_all, justify="right")
    for row in found.rows:
        table.add_row(*(name_of(value) for value in row.key), *cells(row))
    console.print(f"What ended since {found.since:%Y-%m-%d %H:%M} UTC", highlight=False)
    console.print(table)
    unpriced = found.total.unpriced if found.total else 0
    if unpriced:
        console.print(f"Not in the cost: {unpriced:,} attempts of unknown price.", highlight=False)


def cells(row: Spend) -> list[str]:
    return [
        f"{row.attempts:,}",
        f"{row.prompt_tokens:,}",
        f"{row.completion_tokens:,}",
        rounded(row.cost_usd) + ("*" if row.unpriced else ""),
        rounded(row.primary_usd),
        rounded(row.saved_usd),
    ]


def rounded(usd: Decimal | None) -> str:
    return dollars(None if usd is None else usd.quantize(CENT_OF_A_CENT))


def name_of(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return "(none)" if value is None else str(value)
