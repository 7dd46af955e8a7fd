"""From a task to the models that may run it, in order of preference."""

from collections.abc import Iterator
from datetime import date

from config.catalog import Catalog
from config.models import Model
from routing.task import Task


class Candidates:
    """The models to consider for a task; each list is made once a day."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.day = date.min
        self.known: dict[tuple[str | None, str | None, str | None], tuple[Model, ...]] = {}

    def __call__(self, task: Task, today: date) -> tuple[Model, ...]:
        """List the models, as `candidates` does."""
        if today != self.day:
            self.day, self.known = today, {}
        asked = (task.profile, task.focus, task.model)
        if asked not in self.known:
            self.known[asked] = candidates(task, self.catalog, today)
        return self.known[asked]


def candidates(task: Task, catalog: Catalog, today: date) -> tuple[Model, ...]:
    """List the models to consider for a task, best first, each once.

    The caller's model comes first, else the profile's, else the focus's, else the primary; then the
    fallbacks; then the last resort. A retired model stands for its successor.

    Raises:
        UnknownNameError: the task names a profile, focus or model that the catalog does not have.
    """
    resolved = (catalog.resolve(name, today) for name in names(task, catalog))
    return tuple({model.name: model for model in resolved}.values())


def names(task: Task, catalog: Catalog) -> Iterator[str]:
    profile = catalog.profile(task.profile) if task.profile else None
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
