"""`fleet explain`: why a task ran where it ran, or why it still waits."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from config.catalog import Catalog
from ledger import leadership
from ledger.connect import Connection, one_moment
from ledger.usage import AttemptInFull, TaskInFull
from workers.call import check_call
from workers.forecast import Forecast, Prospect, forecast, imagined
from workers.life import LEAST_PREFIX, Life, cost
from workers.picture import read_vitals
from workers.screen import Row, print_rows
from workers.words import dollars, duration, moment, span

BOUNDS = ("patience_s", "max_tier", "max_cost_usd")
"""What a caller may have set for this task, before its profile's own."""

STYLES = {"takes it": "green", "not now": "yellow", "unfit": "red", "not needed": "dim"}


def expect(db: Connection, catalog: Catalog, prompt: str | None, **asked: Any) -> Forecast:  # noqa: ANN401 - arguments of `complete`
    """Tell what would happen to a task if it came now; nothing is enqueued.

    Args:
        prompt: None: the profile's own.
        asked: what else `complete` takes.

    Raises:
        InvalidCallError: an argument is not what it should be.
        UnknownNameError: the profile, focus or model is not in the catalog.
    """
    call = check_call(catalog, prompt, **asked)
    now = datetime.now(UTC)
    with one_moment(db):
        vitals = read_vitals(db, catalog, now)
        is_led = leadership.current(db).is_alive
    return forecast(imagined(call, now), catalog, vitals, now, is_led=is_led)


def life_as_json(found: Life) -> dict[str, Any]:
    """Name what `show_life` prints, in JSON's types where `str` does for the others."""
    return {
        "task": asdict(found.task),
        "attempts": [asdict(attempt) for attempt in found.attempts],
        "held_up": found.held_up,
        "now": asdict(found.forecast) if found.forecast else None,
    }


def show_life(console: Console, found: Life) -> None:
    """Print a task's life from top to bottom."""
    task = found.task
    console.print(Text.assemble(("Task ", "bold"), str(task.id), "  ", (task.state, "bold")), highlight=False)
    print_rows(console, list(asked(task)))
    before = task.accepted_at
    for attempt in found.attempts:
        console.print(f"\n[bold]Attempt {attempt.number}[/] on {attempt.model}", highlight=False)
        print_rows(console, list(course(attempt, before)))
        before = attempt.finished_at or before
    if found.held_up:
        console.print("\n[bold]Now[/]")
        print_sentence(console, found.held_up)
    if task.finished_at:
        print_end(console, task, task.finished_at, found.attempts)
    if found.forecast:
        console.print("\n[bold]If it were decided now[/]")
        show_forecast(console, found.forecast)
        short = str(task.id)[:LEAST_PREFIX]
        console.print(f"\n  `fleet cancel {short}` takes it back.", style="dim", highlight=False)


def asked(task: TaskInFull) -> Iterator[Row]:
    """List what was asked; never the text."""
    named = {"profile": task.profile, "focus": task.focus, "model": task.model, "agent": task.agent}
    yield "asked", ", ".join(f"{name} {value}" for name, value in named.items() if value)
    if task.needs:
        sizes = task.needs
        is_chat = sizes.get("kind", "chat") == "chat"
        answer = f", answer up to {sizes['max_tokens']}" if is_chat else ""
        yield "size", f"{'prompt' if is_chat else 'text'} about {sizes['prompt_tokens']} tokens{answer}"
    bounds = [f"{name} {task.needs[name]}" for name in BOUNDS if task.needs.get(name) is not None]
    bounds += [f"needs {capability}" for capability in task.needs.get("requires") or ()]
    if bounds:
        yield "bounds", ", ".join(bounds)
    yield "priority", f"{task.priority} (0 first, 9 last)"
    yield "accepted", f"{moment(task.accepted_at)}, {ago(task.accepted_at)}"
    if task.not_before:
        yield "not before", moment(task.not_before)
    if task.deadline:
        yield "deadline", moment(task.deadline)
    if task.metadata:
        yield "metadata", json.dumps(task.metadata, ensure_ascii=False)


def course(attempt: AttemptInFull, before: datetime) -> Iterator[Row]:
    """List what is known of an attempt, in the order in which it happened.

    Args:
        attempt: as the ledger has it.
        before: when the task was accepted, or when its attempt before this one ended.
    """
    for model, why in attempt.passed_over:
        yield "passed over", f"{model}: {why}"
    yield "placed", f"on queue {attempt.queue} ({attempt.tier}), after {span(before, attempt.queued_at)}"
    if attempt.claimed_at is None:
        if attempt.finished_at is None:
            yield "in the queue", f"since {moment(attempt.queued_at)}, {ago(attempt.queued_at)}"
    else:
        yield (
            "claimed",
            f"by {attempt.worker}, after {span(attempt.queued_at, attempt.claimed_at)} in the queue",
        )
        yield "ran", running_time(attempt, attempt.claimed_at)
    if attempt.prompt_tokens is not None or attempt.completion_tokens is not None:
        yield "tokens", tokens(attempt)
    if attempt.outcome is None:
        yield "cost", f"{dollars(attempt.reserved_usd)} reserved"
    else:
        yield "cost", f"{dollars(attempt.cost_usd)} ({dollars(attempt.reserved_usd)} was reserved)"
        yield "outcome", f"{attempt.outcome}{': ' + text_of(attempt.error) if attempt.error else ''}"


def running_time(attempt: AttemptInFull, claimed_at: datetime) -> str:
    if attempt.finished_at is None:
        return f"since {moment(claimed_at)}, {ago(claimed_at)}"
    first = (
        "" if attempt.first_token_s is None else f", the first token came after {attempt.first_token_s:.2f} s"
    )
    return f"{span(claimed_at, attempt.finished_at)}{first}"


def tokens(attempt: AttemptInFull) -> str:
    cached = f" ({attempt.cached_tokens} of them cached)" if attempt.cached_tokens else ""
    estimated = ", estimated: the provider counted none" if attempt.tokens_are_estimated else ""
    return f"{attempt.prompt_tokens or 0} in{cached}, {attempt.completion_tokens or 0} out{estimated}"


def print_end(
    console: Console, task: TaskInFull, finished_at: datetime, attempts: Sequence[AttemptInFull]
) -> None:
    total = dollars(cost(attempts))
    console.print("\n[bold]End[/]")
    rows: list[Row] = [
        (task.state, f"{moment(finished_at)}, {span(task.accepted_at, finished_at)} after it was accepted"),
        ("cost", f"{total} for {len(attempts)} attempt{'' if len(attempts) == 1 else 's'}"),
    ]
    if task.error:
        rows.append(("error", f"{task.error.get('type')}: {text_of(task.error)}"))
    print_rows(console, rows)


def show_forecast(console: Console, found: Forecast) -> None:
    """Print a decision, with what is said of each candidate."""
    print_sentence(console, found.text)
    if found.candidates:
        console.print()
        console.print(Padding(table_of(found.candidates), (0, 0, 0, 2)))


def print_sentence(console: Console, sentence: str) -> None:
    console.print(Padding(Text(sentence), (0, 0, 0, 2)))


def table_of(candidates: Sequence[Prospect]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("candidate", style="cyan", overflow="fold")
    table.add_column("tier")
    table.add_column("", no_wrap=True)
    table.add_column("why", overflow="fold")
    for each in candidates:
        until = f" (until {moment(each.until)})" if each.until else ""
        why = Text(f"{each.why or ''}{until}")
        table.add_row(each.model, each.tier, Text(each.verdict, STYLES[each.verdict]), why)
    return table


def ago(at: datetime) -> str:
    return f"{duration((datetime.now(UTC) - at).total_seconds())} ago"


def text_of(error: dict[str, Any]) -> str:
    return str(error.get("text") or error.get("type") or "no reason was kept")
