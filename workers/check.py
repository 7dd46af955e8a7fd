"""`fleet models --check`: which local models this host can run, and what mends it where it cannot."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.catalog import Catalog
from workers.availability import Availability, availability, local_models
from workers.model_files import GB


def look(catalog: Catalog) -> list[Availability]:
    """Look at all local models, in the catalog's order."""
    return [availability(model) for model in local_models(catalog.models.values())]


def show(console: Console, found: Sequence[Availability]) -> None:
    """Print what each lacks, and what to do."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("model", "engine", "here"):
        table.add_column(column, no_wrap=True, style="cyan" if column == "model" else None)
    table.add_column("state", overflow="fold", ratio=1)
    for each in found:
        state = Text(str(each), style="green" if each.state == "ready" else "yellow")
        here = f"{each.size_bytes / GB:.1f} GB" if each.size_bytes else "-"
        table.add_row(each.model, each.engine, here, state)
    console.print(table)
