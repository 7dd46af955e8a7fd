"""What needs attention now, worst first: each in a sentence, with the page that says more."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from config.catalog import Catalog
from dashboard.quota import quotas
from ledger.leadership import Leader
from ledger.usage import OpenTasks, WorkerLoad
from workers.model_states import ModelState
from workers.picture import is_there
from workers.words import duration

LONG = timedelta(hours=1)
"""A task that waits longer than this may wait for something that nobody sees to."""

FEW_SUCCEED = 0.5

ENOUGH = 10
"""Attempts from which on a rate says something."""


class Concern(NamedTuple):
    """Something that a person should look at."""

    level: Literal["bad", "warn"]
    text: str
    page: str


def concerns(
    catalog: Catalog,
    models: Sequence[ModelState],
    workers: Sequence[WorkerLoad],
    leader: Leader,
    tasks: OpenTasks,
    *,
    paused: Mapping[str, str],
) -> list[Concern]:
    """List what needs attention, what is bad before what is worth a warning.

    Args:
        paused: recurring tasks that were paused, by name, with the reason.
    """
    found = [
        *of_processes(workers, leader, tasks),
        *of_models(catalog, models),
        *of_schedule(catalog, paused),
    ]
    return sorted(dict.fromkeys(found), key=lambda each: each.level)


def of_processes(workers: Sequence[WorkerLoad], leader: Leader, tasks: OpenTasks) -> Iterator[Concern]:
    if not leader.is_alive:
        yield Concern("bad", "No dispatcher leads, so no task is decided. Start one: fleet up.", "/workers")
    if not any(is_there(worker) for worker in workers):
        yield Concern("bad", "No worker is there, so no task runs. Start one: fleet up.", "/workers")
    for worker in workers:
        if not is_there(worker):
            text = f"Worker {worker.name} was last seen {duration(worker.silent_s)} ago, and said no goodbye."
            yield Concern("bad", text, "/workers")
    if tasks.oldest_at and datetime.now(UTC) - tasks.oldest_at > LONG:
        waited = duration((datetime.now(UTC) - tasks.oldest_at).total_seconds())
        yield Concern("warn", f"A task has waited for {waited}.", "/tasks?state=held")


def of_models(catalog: Catalog, models: Sequence[ModelState]) -> Iterator[Concern]:
    for model in models:
        if model.state == "retired":
            continue
        if model.tier == "paid" and model.input_usd_per_mtok is None:
            yield Concern(
                "warn", f"The price of {model.name} is not known, so neither is its cost.", "/models"
            )
        for quota in quotas(model.left):
            if quota.left <= 0:
                yield Concern("warn", f"Used up: {quota.whose} has {quota.text}.", "/models")
        if model.success_rate is not None and model.attempts >= ENOUGH and model.success_rate < FEW_SUCCEED:
            text = f"{model.name} answered {model.success_rate:.0%} of its attempts of the last day."
            yield Concern("warn", text, "/models")
    yield from of_retired(catalog, {each.name: each for each in models if each.state == "retired"})


def of_retired(catalog: Catalog, retired: Mapping[str, ModelState]) -> Iterator[Concern]:
    """Say of each retired model who still names it."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for each in (*catalog.profiles.values(), *catalog.focuses.values()):
        if each.model in retired and each.name not in named[each.model]:
            named[each.model].append(each.name)
    for model, names in named.items():
        successor = retired[model].successor
        instead = f"{successor} answers instead" if successor else "it has no successor"
        yield Concern("warn", f"{model} is retired, {instead}: {', '.join(names)} still name it.", "/models")


def of_schedule(catalog: Catalog, paused: Mapping[str, str]) -> Iterator[Concern]:
    for name in catalog.schedule:
        if name in paused:
            yield Concern("warn", f"Schedule {name} is paused: {paused[name]}", "/schedules")
