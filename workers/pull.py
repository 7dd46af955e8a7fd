"""`fleet pull`: bring a local model's file to this host, with a progress bar."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from config.catalog import Catalog
from config.models import Model
from workers import model_files
from workers.absence import Absence
from workers.errors import NotThereError
from workers.lanes import ENGINE_OF


def starter_of(catalog: Catalog) -> Model | None:
    """Find the model that every machine can run: the last resort's last one that runs on a processor."""
    for name in reversed(catalog.routing.last_resort):
        model = catalog.model(name)
        if model.engine == ENGINE_OF["cpu"]:
            return model
    return None


def pull(model: Model, console: Console) -> None:
    """Fetch a model, unless it is here, and say where it is.

    Raises:
        NotThereError: it is nothing that can be fetched.
        ModelFileError: no source gives it.
    """
    if model.engine == "cloud":
        raise NotThereError(
            f"{model.name} runs at its provider", "there is nothing to fetch: set the provider's key"
        )
    if not model.sources:
        console.print(f"{model.name} needs no file.", highlight=False)
        return
    before = model_files.locate(model)
    if not isinstance(before, Absence):
        console.print(f"{model.name} is here: {before.path}", highlight=False, soft_wrap=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        console.print(f"Fetching {model.name}.", highlight=False)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(model.name, total=model.size_bytes)

        def show(done_bytes: int, bytes_in_all: int | None, what: str) -> None:
            progress.update(
                bar,
                description=f"{model.name}: {what}",
                completed=done_bytes,
                total=bytes_in_all or model.size_bytes,
            )

        found = model_files.pull(model, show)
    console.print(
        f"Fetched {model.name}, {found.size_bytes / 1e6:,.0f} MB: {found.path}",
        highlight=False,
        soft_wrap=True,
    )
