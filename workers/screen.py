"""The first screen of `fleet up`: what runs where, what is missing and why, how to call it."""

import shlex
import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.catalog import Model
from config.settings import Settings, usual_home, without_password
from workers import flower
from workers.lanes import LaneReport
from workers.procfile import has_dashboard

PYTHON_CALL = (
    """python -c 'from workers import complete; print(complete.delay(profile="social").get(timeout=120))'"""
)
SHELL_CALL = 'fleet complete "Write a haiku about queues" --profile creative'

NAME_WIDTH = 40
"""Of the longest names, which are lists of models; longer ones are wrapped."""

Row = tuple[str, str]


def show(
    console: Console,
    settings: Settings,
    lanes: Sequence[LaneReport],
    *,
    schema: str,
    new_password: str | None,
) -> None:
    """Print the first screen."""
    console.print()
    console.print(
        Text.assemble(("Aria Fleet ", "bold"), fleet_version(), " on ", socket.gethostname()), highlight=False
    )
    console.print()
    print_rows(console, parts(settings, schema, new_password))
    served = [(model, lane.lane) for lane in lanes for model in lane.models]
    print_section(
        console, "Served by this host", [(m.name, f"worker-{lane}, queue {m.queue}") for m, lane in served]
    )
    print_section(console, "Not served", list(missing(lanes)))
    print_section(
        console,
        "Ask it, in another terminal",
        [*(("", line) for line in environment(settings)), ("", SHELL_CALL), ("", PYTHON_CALL)],
    )
    print_section(console, "See it", [("", place) for place in places(settings)])
    console.print("\nCtrl-C here, or `fleet down`, ends all of it.\n", highlight=False)


def places(settings: Settings) -> Iterator[str]:
    """List where to look."""
    if has_dashboard():
        yield settings.dashboard_url
    yield "fleet status"
    yield flower.url(settings)


def parts(settings: Settings, schema: str, new_password: str | None) -> Iterator[Row]:
    """List the servers, without their passwords."""
    yield "Home", str(settings.home)
    yield "Redis", f"{place(is_embedded=settings.redis_is_embedded)} {without_password(settings.redis_url)}"
    yield "Broker", f"{without_password(settings.broker_url)}, for a program that has only Celery"
    where = f"{place(is_embedded=settings.database_is_embedded)} {without_password(settings.database_url)}"
    yield "Postgres", f"{where}, schema {schema}"
    yield "Flower", f"{flower.url(settings)}, user {flower.USER}, {password_hint(settings, new_password)}"


def environment(settings: Settings) -> Iterator[str]:
    """List what another terminal has to set first: what is not the default here."""
    if settings.home != usual_home():
        yield f"export FLEET_HOME={shlex.quote(str(settings.home))}"


def place(*, is_embedded: bool) -> str:
    return "embedded," if is_embedded else "yours,"


def password_hint(settings: Settings, new_password: str | None) -> str:
    if settings.flower_password:
        return "password from FLEET_FLOWER_PASSWORD"
    where = flower.password_file(settings)
    return f"new password {new_password} (kept in {where})" if new_password else f"password in {where}"


def missing(lanes: Sequence[LaneReport]) -> Iterator[Row]:
    """Say which models this host does not serve, why, and how to mend it."""
    for lane in lanes:
        by_why: dict[str, list[str]] = defaultdict(list)
        for name, why in lane.missing:
            by_why[why].append(name)
        for why, named in by_why.items():
            yield ", ".join(named), why
    if not has_dashboard():
        yield "dashboard", "its packages are not installed: the extra `dashboard`"


def names(models: Sequence[Model]) -> str:
    return ", ".join(model.name for model in models)


def fleet_version() -> str:
    try:
        return version("aria-fleet")
    except PackageNotFoundError:
        return "(a clone that is not installed)"


def print_section(console: Console, title: str, rows: Sequence[Row]) -> None:
    if rows:
        console.print(f"\n[bold]{title}[/]")
        print_rows(console, rows)


def print_rows(console: Console, rows: Iterator[Row] | Sequence[Row]) -> None:
    """Print names beside what is said of them; where no row has a name, as lines to copy."""
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(max_width=NAME_WIDTH, style="cyan")
    table.add_column(overflow="fold")
    rows = list(rows)
    if not any(name for name, _ in rows):
        for _, what in rows:
            console.print(f"  {what}", soft_wrap=True, highlight=False, markup=False)
        return
    for name, what in rows:
        table.add_row(name, Text(what))
    console.print(table)
