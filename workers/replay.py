"""`fleet replay`: what recorded tasks, or a trace, would have cost and waited under another config."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from config.catalog import Catalog
from config.models import TIERS
from ledger import fold
from ledger.connect import Connection, one_moment
from ledger.replay import RecordedCall, RecordedTask, recorded_calls, recorded_tasks
from routing.pace import seen_pace
from routing.simulation.policies import (
    Arrival,
    Fleet,
    Policy,
    all_paid,
    immediate_fallback,
    retry_with_backoff,
)
from routing.simulation.run import simulate
from routing.simulation.tally import Tally
from routing.simulation.world import Outage, Speed, World, random_outages, seen_speed
from workers.errors import NothingToReplayError
from workers.picture import MOST_REMEMBERED
from workers.waiting import task_of
from workers.words import dollars, duration, moment

MEAN_OUTAGE = timedelta(minutes=30)
"""Of the outages that are drawn."""

GUESSED_SHARE = 0.5
"""Of the longest answer, and of the estimated prompt, where nobody counted: the task never succeeded."""

OnProgress = Callable[[str, float], None]
"""Told the policy and the share of the time that has passed."""


@dataclass(frozen=True)
class Workload:
    """What is replayed."""

    source: str
    """Where it is from, in words."""
    arrivals: Sequence[Arrival]
    happened: Tally | None = None
    """None: nobody recorded it."""
    speeds: Mapping[str, Speed] | None = None
    """By model, where the ledger saw it at work."""
    guessed: int = 0
    """Tasks whose tokens nobody counted."""

    @property
    def begin(self) -> datetime:
        """The first arrival."""
        return min(arrival.task.accepted_at for arrival in self.arrivals)

    @property
    def end(self) -> datetime:
        """The last arrival."""
        return max(arrival.task.accepted_at for arrival in self.arrivals)


@dataclass(frozen=True)
class Assumptions:
    """What a replay is told of the world."""

    seed: int = 0
    slots: Mapping[str, int] | None = None
    """By queue, where they differ from the usual ones."""
    outages: Sequence[tuple[str, timedelta, timedelta]] = ()
    """(provider, model or queue; after the first arrival; for how long)"""
    outages_per_day: float = 0.0
    """Drawn for each provider and for each queue of a local model."""


@dataclass(frozen=True)
class Replayed:
    """A replay, to be shown."""

    workload: Workload
    world: World
    tallies: Sequence[Tally]
    """What happened first, if anybody knows; then the policies."""


def recorded(db: Connection, since: datetime) -> Workload:
    """Read the tasks that were accepted since a moment, and what became of them.

    Raises:
        NothingToReplayError: there were none.
    """
    with one_moment(db):
        tasks, calls = recorded_tasks(db, since), recorded_calls(db, since)
        paces = fold.paces(db, since, MOST_REMEMBERED)
    if not tasks:
        raise NothingToReplayError(f"no task was accepted since {moment(since)}")
    of_task: dict[UUID, list[RecordedCall]] = defaultdict(list)
    for call in calls:
        of_task[call.task_id].append(call)
    arrivals = [arrival_of(task, of_task[task.id]) for task in tasks]
    return Workload(
        source=f"{len(tasks):,} tasks of the ledger since {moment(since)}",
        arrivals=arrivals,
        happened=happened(tasks, of_task),
        speeds={
            row.model: seen_speed(
                seen_pace(row.queue_s, row.run_s, row.first_token_s, round(row.completion_tokens))
            )
            for row in paces
        },
        guessed=sum(counted(of_task[task.id]) is None for task in tasks),
    )


def arrival_of(row: RecordedTask, calls: Sequence[RecordedCall]) -> Arrival:
    recorded = task_of(row)
    needs = replace(recorded.needs, worker=None)  # the workers of another fleet have other names
    task = replace(recorded, needs=needs)
    guess = (round(needs.prompt_tokens * GUESSED_SHARE), round(needs.max_tokens * GUESSED_SHARE))
    prompt, completion = counted(calls) or guess
    return Arrival(task, prompt, completion)


def counted(calls: Sequence[RecordedCall]) -> tuple[int, int] | None:
    """Give the tokens that the last model counted that answered; None: none did."""
    for call in reversed(calls):
        if call.prompt_tokens is not None and call.completion_tokens is not None:
            return call.prompt_tokens, call.completion_tokens
    return None


def happened(tasks: Sequence[RecordedTask], calls: Mapping[UUID, Sequence[RecordedCall]]) -> Tally:
    """Add up what became of the tasks in truth."""
    tally = Tally("what happened")
    for task in tasks:
        own = calls.get(task.id, ())
        for call in own:
            tally.calls[call.tier] += 1
            if call.outcome is not None:
                tally.pay(task.profile, call.cost_usd)
            if call.cause in ("rate_limit", "quota"):
                tally.useless += 1
            elif call.outcome in ("failed", "lost"):
                tally.faulty += 1
        if task.state == "succeeded" and own:
            start = max(task.accepted_at, task.not_before or task.accepted_at)
            last = own[-1]
            is_late = bool(task.deadline and task.finished_at and task.finished_at > task.deadline)
            waited_s = max((last.claimed_at - start).total_seconds(), 0.0)
            tally.succeed(last.model, waited_s, is_late=is_late)
        elif task.error == "ExpiredError":
            tally.expired += 1
        elif task.state == "failed":
            tally.fail(task.error or "unknown", had_deadline=task.deadline is not None)
        else:
            tally.waiting += 1
    return tally


def replay(
    workload: Workload,
    catalog: Catalog,
    assumptions: Assumptions,
    *,
    name: str = "this config",
    on_progress: OnProgress | None = None,
) -> Replayed:
    """Let every policy meet the same tasks in the same world.

    Args:
        workload: what comes in.
        catalog: that decides.
        assumptions: what is not decided.
        name: what the catalog is called in the result.
        on_progress: told how far it is.
    """
    world = a_world(workload, catalog, assumptions)
    known = [workload.happened] if workload.happened else []
    tallies = [
        simulate(world, policy, workload.arrivals, reporting(on_progress, policy.name))
        for policy in policies(catalog, name, workload.end)
    ]
    return Replayed(workload, world, [*known, *tallies])


def reporting(on_progress: OnProgress | None, policy: str) -> Callable[[float], None] | None:
    return None if on_progress is None else lambda share: on_progress(policy, share)


def a_world(workload: Workload, catalog: Catalog, assumptions: Assumptions) -> World:
    slots = dict(assumptions.slots or {})
    world = World(catalog, assumptions.seed, slots, dict(workload.speeds or {}))
    outages = [
        Outage(subject, workload.begin + after, workload.begin + after + length)
        for subject, after, length in assumptions.outages
    ]
    local = {m.queue for m in catalog.models.values() if m.tier == "local" and m.kind == "chat"}
    for subject in sorted({*catalog.providers, *local}):
        outages += random_outages(
            assumptions.seed,
            subject,
            workload.begin,
            workload.end,
            per_day=assumptions.outages_per_day,
            mean=MEAN_OUTAGE,
        )
    return World(catalog, assumptions.seed, slots, world.speeds, outages=outages)


def policies(catalog: Catalog, name: str, day: datetime) -> list[Policy]:
    """Make the policies to compare, each of them new."""
    paid = dearest_used(catalog, day)
    return [
        Fleet(catalog, name),
        *([all_paid(catalog, paid)] if paid else []),
        immediate_fallback(catalog),
        retry_with_backoff(catalog),
    ]


def dearest_used(catalog: Catalog, day: datetime) -> str | None:
    """Name the paid model that everything would go to: the primary, else the first one there is."""
    names = (catalog.routing.primary, *catalog.models)
    return next((name for name in names if catalog.resolve(name, day.date()).tier == "paid"), None)


def as_json(found: Replayed) -> dict[str, Any]:
    """Name what `show` prints."""
    return {
        "source": found.workload.source,
        "begin": found.workload.begin,
        "end": found.workload.end,
        "tasks": len(found.workload.arrivals),
        "guessed_tokens": found.workload.guessed,
        "assumed": assumed(found),
        "policies": [tally_as_json(tally) for tally in found.tallies],
    }


def tally_as_json(tally: Tally) -> dict[str, Any]:
    return {
        "policy": tally.policy,
        "usd": tally.usd,
        "usd_by_profile": tally.usd_by_profile,
        "unpriced_calls": tally.unpriced,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "expired": tally.expired,
        "late": tally.late,
        "waiting": tally.waiting,
        "missed_deadlines": tally.missed,
        "waited_s": {f"p{share}": tally.wait_s(share / 100) for share in (50, 95, 99)},
        "calls": dict(tally.calls),
        "useless_requests": tally.useless,
        "failed_calls": tally.faulty,
        "answered_by": dict(tally.answered_by),
        "reasons": dict(tally.reasons),
    }


def show(console: Console, found: Replayed) -> None:
    """Print a replay."""
    workload = found.workload
    console.print(f"[bold]Replay[/] of {workload.source}, {moment(workload.begin)} to {moment(workload.end)}")
    console.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="cyan", no_wrap=True)
    for tally in found.tallies:
        table.add_column(tally.policy, justify="right", overflow="fold")
    for what, say in ROWS:
        table.add_row(what, *(say(tally) for tally in found.tallies))
    for tier in TIERS:
        table.add_row(f"calls, {tier}", *(f"{tally.calls[tier]:,}" for tally in found.tallies))
    console.print(table)
    for tally in found.tallies:
        for why, count in tally.reasons.most_common(2):
            console.print(f"\n{tally.policy}, {count:,} failed: {why}", highlight=False, markup=False)
    console.print("\n[bold]What is simulated[/]")
    for line in assumed(found):
        console.print(f"- {line}", highlight=False, markup=False)


def wait(tally: Tally, share: float) -> str:
    waited_s = tally.wait_s(share)
    if waited_s is None:
        return "-"
    return f"{waited_s:.1f} s" if waited_s < 10 else duration(waited_s)


def cost(tally: Tally) -> str:
    known = dollars(tally.usd.quantize(Decimal("0.0001")))
    return f"{known} and {tally.unpriced:,} calls of unknown price" if tally.unpriced else known


ROWS: Sequence[tuple[str, Callable[[Tally], str]]] = (
    ("cost", cost),
    ("succeeded", lambda tally: f"{tally.succeeded:,}"),
    ("failed", lambda tally: f"{tally.failed:,}"),
    ("expired", lambda tally: f"{tally.expired:,}"),
    ("still waiting", lambda tally: f"{tally.waiting:,}"),
    ("deadlines missed", lambda tally: f"{tally.missed:,}"),
    ("waited, half at most", lambda tally: wait(tally, 0.5)),
    ("waited, 95 % at most", lambda tally: wait(tally, 0.95)),
    ("waited, 99 % at most", lambda tally: wait(tally, 0.99)),
    ("useless requests", lambda tally: f"{tally.useless:,}"),
    ("failed calls", lambda tally: f"{tally.faulty:,}"),
)


def assumed(found: Replayed) -> list[str]:
    """Say what the figures rest on."""
    world, workload = found.world, found.workload
    slots = ", ".join(f"{queue} {world.slots_of(queue)}" for queue in sorted(world.queues()))
    seen = ", ".join(sorted(workload.speeds or {}))
    as_seen = f"as the ledger saw {seen}; the others " if seen else ""
    lines = [
        "Nothing was called: answers have the recorded tokens, whichever model gives them.",
        f"Every model has a worker, and every key is set. Slots: {slots}.",
        f"Models are {as_seen}as fast as usual for their size and tier; times vary by chance.",
        "Providers allow what the catalog says and count for themselves, refused requests too.",
        "By chance, 2 % of the free calls fail, and 0.2 % of the paid ones.",
        f"There are {len(world.outages)} outages. Seed {world.seed}: the same seed gives the same world.",
        "Failed tasks are lost. A deadline is missed by a task that expires, fails, or is answered late.",
        "A useless request is one that a limit turned away.",
    ]
    if workload.guessed:
        lines.append(
            f"{workload.guessed:,} recorded tasks never got an answer: half of the prompt's estimate and of "
            "max_tokens was taken for their tokens."
        )
    return lines
