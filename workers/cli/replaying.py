"""The command that asks what would have been."""

import json
import re
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from config.errors import UnknownNameError
from config.periods import read_period
from config.settings import settings

if TYPE_CHECKING:
    from rich.progress import TaskID

OUTAGE = re.compile(r"(?P<subject>[^@]+)@(?P<after>[^+]+)\+(?P<length>.+)")

SLOTS = re.compile(r"(?P<queue>[^=]+)=(?P<slots>\d{1,4})")


def span(text: str) -> timedelta:
    """Read a time span.

    Raises:
        BadParameter: it is none.
    """
    try:
        return read_period(text)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error)) from None


def outage(text: str) -> tuple[str, timedelta, timedelta]:
    """Read an outage: who, how long after the begin, for how long.

    Raises:
        BadParameter: it is none.
    """
    found = OUTAGE.fullmatch(text)
    if found is None:
        message = f"expected NAME@AFTER+LENGTH like openrouter@6h+30m, got {text!r}"
        raise click.BadParameter(message)
    return found["subject"], span(found["after"]), span(found["length"])


def slots_of(text: str) -> tuple[str, int]:
    """Read the slots of a queue.

    Raises:
        BadParameter: it is none.
    """
    found = SLOTS.fullmatch(text)
    if found is None:
        message = f"expected QUEUE=NUMBER like mlx.qwen3-mlx=2, got {text!r}"
        raise click.BadParameter(message)
    return found["queue"], int(found["slots"])


def check_names(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    """Refuse a name that means nothing.

    Raises:
        UnknownNameError: names the closest one.
    """
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, sorted(known))


@contextmanager
def progress() -> Generator[Callable[[str, float], None]]:
    """Show how far it is, on a terminal; the result alone goes to standard output."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(policy: str, share: float) -> None:
            if policy not in tasks:
                tasks[policy] = bar.add_task(policy, total=1.0)
            bar.update(tasks[policy], completed=share)

        yield on_progress


@click.command()
@click.option(
    "--since",
    type=span,
    metavar="TIME",
    default="7d",
    show_default=True,
    help="Replay the ledger's tasks of this time.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Replay a CSV file instead of the ledger; see below.",
)
@click.option("--profile", help="The profile of a trace that names none.")
@click.option("--deadline", type=span, metavar="TIME", help="Give each request of a trace so much time.")
@click.option(
    "--on",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DATE",
    help="The day on which a trace begins.  [default: today]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder with another config.  [default: this fleet's]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same world.")
@click.option(
    "--outage",
    "outages",
    type=outage,
    metavar="NAME@AFTER+LENGTH",
    multiple=True,
    help="A provider, model or queue that fails: openrouter@6h+30m, 6 h after the begin.",
)
@click.option(
    "--outages-per-day",
    type=click.FloatRange(0, 100),
    default=0,
    show_default=True,
    help="Draw outages of half an hour for each provider and each local worker.",
)
@click.option(
    "--slots",
    type=slots_of,
    metavar="QUEUE=NUMBER",
    multiple=True,
    help="Attempts that a queue runs at once; 0: it has no worker. May be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def replay(
    *,
    since: timedelta,
    trace: Path | None,
    profile: str | None,
    deadline: timedelta | None,
    on: datetime | None,
    config: Path | None,
    seed: int,
    outages: Sequence[tuple[str, timedelta, timedelta]],
    outages_per_day: float,
    slots: Sequence[tuple[str, int]],
    as_json: bool,
) -> None:
    """Say what tasks would have cost, waited and missed under another config. Nothing is called.

    The tasks are those of the ledger, or of a trace. The config decides on them as the dispatcher does, with
    a clock of its own, simulated models and limits that the providers count themselves. Beside it stand what
    happened (for the ledger), everything on the paid primary, and what gateways do: the listed order with
    immediate fallback, once, and again and again for a minute.

    A trace is a CSV file with the columns timestamp, prompt_tokens, completion_tokens and profile. Other
    usual names are understood too, e.g. TIMESTAMP, ContextTokens, GeneratedTokens; --profile stands in for
    the last column. Its first request comes at its time of day on the day that --on names.

    \b
    Examples:
      fleet replay                                      the last week, under this config
      fleet replay --since 30d --config ~/try           the same for a month under another one
      fleet replay --slots mlx.qwen3-mlx=0              what if the Mac had not been there?
      fleet replay --outage openrouter@6h+2h --seed 7   what if OpenRouter had failed for two hours?
      fleet replay --trace week.csv --deadline 1h       a workload from elsewhere
      fleet replay --trace azure.csv --profile code --json | jq '.policies[] | [.policy, .usd]'
    """
    from rich.console import Console  # noqa: PLC0415

    from config.catalog import load_catalog  # noqa: PLC0415
    from workers import replay as module  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415
    from workers.trace import read_trace  # noqa: PLC0415

    catalog = load_catalog(config or settings().config)
    if profile is not None:
        catalog.profile(profile)
    queues = {model.queue for model in catalog.models.values()}
    known = queues | {*catalog.providers, *catalog.models}
    check_names("provider, model or queue", [subject for subject, _, _ in outages], known)
    check_names("queue", [queue for queue, _ in slots], queues)
    if trace is None:
        if profile or deadline or on:
            message = "--profile, --deadline and --on are for a trace: add --trace FILE.csv"
            raise click.UsageError(message)
        with reading(settings(), "replay") as db:
            workload = module.recorded(db, datetime.now(UTC) - since)
    else:
        day = on.date() if on else datetime.now(UTC).date()
        deadline_s = deadline.total_seconds() if deadline else None
        arrivals = read_trace(trace, catalog, day=day, profile=profile, deadline_s=deadline_s)
        workload = module.Workload(f"{len(arrivals):,} requests of {trace}", arrivals)
    assumptions = module.Assumptions(seed, dict(slots), tuple(outages), outages_per_day)
    name = str(config) if config else "this config"
    with progress() as on_progress:
        found = module.replay(workload, catalog, assumptions, name=name, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps(module.as_json(found), indent=2, default=str))
    else:
        module.show(Console(), found)
