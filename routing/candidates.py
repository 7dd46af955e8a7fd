"""From a task to the models that may run it, in order of preference."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

from config.catalog import Catalog
from config.models import TIERS, Model
from routing.task import Task

UNKNOWN_PRICE = Decimal("Infinity")
"""Comes last among the paid ones."""


class OneWorkersModel(Model):
    """A model, as one of the workers that serve it runs it."""

    worker: str
    """Its name, and that of the queue on which it alone listens."""

    @property
    def queue(self) -> str:
        """Where that worker listens."""
        return self.worker


def run_by(model: Model, worker: str | None) -> Model:
    """Give a model as one worker runs it; None: as any does."""
    return OneWorkersModel.model_construct(**dict(model), worker=worker) if worker else model


class Candidates:
    """The models to consider for a task; each list is made once a day."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.day = date.min
        self.known: dict[tuple[str | None, ...], tuple[Model, ...]] = {}

    def __call__(self, task: Task, today: date) -> tuple[Model, ...]:
        """List the models, as `candidates` does."""
        if today != self.day:
            self.day, self.known = today, {}
        asked = (task.profile, task.focus, task.model, task.needs.kind, task.needs.worker)
        if asked not in self.known:
            self.known[asked] = candidates(task, self.catalog, today)
        return self.known[asked]


def candidates(task: Task, catalog: Catalog, today: date) -> tuple[Model, ...]:
    """List the models to consider for a task, best first, each once.

    The caller's model comes first, else the profile's, else the focus's, else the primary; then the
    fallbacks; then the last resort. A retired model stands for its successor. For an embedding it is the
    caller's alone: another model's vectors cannot be compared with its. A task for one worker has no choice.

    Raises:
        UnknownNameError: the task names a profile, focus or model that the catalog does not have.
    """
    resolved = (catalog.resolve(name, today) for name in names(task, catalog))
    listed = tuple({model.name: model for model in resolved}.values())
    if task.needs.worker:
        return (run_by(listed[0], task.needs.worker),)
    profile = catalog.profile(task.profile) if task.profile else None
    if profile is None or profile.prefer == "listed":
        return listed
    stopgaps = catalog.routing.last_resort
    named, others = (listed[:1], listed[1:]) if task.model else ((), listed)
    by_price = sorted(others, key=lambda model: (model.name in stopgaps, *price_rank(model, today)))
    return (*named, *by_price)


def price_rank(model: Model, today: date) -> tuple[int, Decimal]:
    """Order models by tier, then by what a million tokens in and a million out cost together."""
    price = model.price_on(today)
    usd = price.input_usd_per_mtok + price.output_usd_per_mtok if price else UNKNOWN_PRICE
    return TIERS.index(model.tier), Decimal(0) if model.tier != "paid" else usd


def retired_names(catalog: Catalog, today: date) -> dict[str, Model]:
    """List the retired models that profiles, focuses and routing name, with what each stands for today."""
    named = {profile.model for profile in catalog.profiles.values()}
    named |= {name for profile in catalog.profiles.values() for name in profile.fallbacks or ()}
    named |= {focus.model for focus in catalog.focuses.values()}
    named |= {catalog.routing.primary, *catalog.routing.fallbacks, *catalog.routing.last_resort}
    return {
        name: catalog.resolve(name, today) for name in sorted(named) if catalog.model(name).is_retired(today)
    }


def names(task: Task, catalog: Catalog) -> Iterator[str]:
    profile = catalog.profile(task.profile) if task.profile else None
    if task.model and task.needs.kind == "embedding":
        yield task.model
        return
    if task.model:
        yield task.model
    elif profile:
        yield profile.model
    elif task.focus:
        yield catalog.focus(task.focus).model
    else:
        yield catalog.routing.primary
    fallbacks = profile.fallbacks if profile else None
    yield from catalog.routing.fallbacks if fallbacks is None else fallbacks
    yield from catalog.routing.last_resort
