"""The catalog: does it load, what in it is retired, can every profile be served; and the providers' keys."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from uuid import UUID

from config.catalog import Catalog, Model, Provider, load_catalog
from config.errors import CatalogError
from config.models import TIERS
from config.settings import Settings, has_key
from routing.candidates import candidates
from routing.task import Needs, Task
from workers.doctor.finding import Finding, counted, error, note, ok, warning
from workers.lanes import ENGINE_OF, lane_of
from workers.mlx_host import lack_of_mlx

LONG_AGO = datetime.min.replace(tzinfo=UTC)

ANY_TASK = Task(
    id=UUID(int=0),
    profile=None,
    focus=None,
    model=None,
    agent="doctor",
    priority=0,
    not_before=None,
    deadline=None,
    needs=Needs(prompt_tokens=1, max_tokens=1),
    accepted_at=LONG_AGO,
    patient_until=LONG_AGO,
)
"""A task that is only thought of."""

SERVED = "a worker is there"


@dataclass(frozen=True)
class Faults:
    """What keeps a catalog from being loaded."""

    faults: Sequence[str]


@dataclass(frozen=True)
class Reach:
    """Where a task could go."""

    queues: frozenset[str]
    """Of the workers that are there."""
    here: frozenset[str]
    """Models that this host can serve."""
    starter: str | None
    """The model that `fleet up` would fetch, because this host has none; None: it would not."""

    def way_to(self, model: Model) -> str | None:
        """Say how a model could be reached; None: it cannot."""
        if model.queue in self.queues:
            return SERVED
        if model.name in self.here:
            return "this host could serve it"
        if model.name == self.starter:
            return "`fleet up` fetches it"
        return None


def look(settings: Settings) -> Catalog | Faults:
    """Load it."""
    try:
        return load_catalog(settings.config)
    except CatalogError as fault:
        return Faults(fault.faults)


def findings(seen: Catalog | Faults, settings: Settings, reach: Reach) -> Iterator[Finding]:
    """Judge it.

    Args:
        seen: by `look`.
        settings: of this host.
        reach: where tasks could go.
    """
    if isinstance(seen, Faults):
        for fault in seen.faults:
            yield error("catalog.loads", fault, "correct it; nothing starts before")
        return
    yield ok(
        "catalog.loads",
        f"{len(seen.models)} models, {len(seen.profiles)} profiles in {settings.config}",
    )
    today = datetime.now(UTC).date()
    yield from of_retired(seen, today)
    yield from of_profiles(seen, reach, today)


def of_retired(catalog: Catalog, today: date) -> Iterator[Finding]:
    for name, users in users_of(catalog).items():
        model = catalog.model(name)
        if not model.is_retired(today):
            continue
        stands = catalog.resolve(name, today)
        gone = f"{name} is gone since {model.retired_on}"
        used = f"named by {', '.join(users)}"
        if stands.is_retired(today):
            yield note(
                "catalog.retired",
                f"{gone} without a successor; {used}",
                "name another model in profiles.yaml",
            )
        else:
            yield note("catalog.retired", f"{gone}, {stands.name} stands for it; {used}")


def users_of(catalog: Catalog) -> dict[str, list[str]]:
    """List which entries name each model."""
    users: dict[str, list[str]] = defaultdict(list)
    for profile in catalog.profiles.values():
        for name in dict.fromkeys((profile.model, *(profile.fallbacks or ()))):
            users[name].append(f"profile {profile.name}")
    for focus in catalog.focuses.values():
        users[focus.model].append(f"focus {focus.name}")
    routing = catalog.routing
    for name in dict.fromkeys((routing.primary, *routing.fallbacks, *routing.last_resort)):
        users[name].append("routing")
    return users


def of_profiles(catalog: Catalog, reach: Reach, today: date) -> Iterator[Finding]:
    """Say for each profile what it would run on; those that would run on the same are one finding."""
    served: dict[tuple[str, str], list[str]] = defaultdict(list)
    for profile in catalog.profiles.values():
        models = models_of(profile.name, catalog, today)
        ways = [(model.name, way) for model in models if (way := reach.way_to(model))]
        if ways:
            # Whichever a worker serves comes before what a worker could.
            served[min(ways, key=lambda each: each[1] != SERVED)].append(profile.name)
        else:
            yield error(
                "catalog.profiles",
                f"profile {profile.name} cannot be served: no worker has any of "
                f"{', '.join(model.name for model in models) or 'the models that it allows'}",
                remedy(models, catalog),
            )
    for (model, way), profiles in served.items():
        found = f"{', '.join(profiles)}: {model} ({way})"
        if way == SERVED or not reach.queues:
            yield ok("catalog.profiles", found)
        else:
            yield warning(
                "catalog.profiles",
                f"{found}, but none of the workers that are up does",
                "`fleet down`, then `fleet up`: a worker serves the models that it finds at its start",
            )


def models_of(profile: str, catalog: Catalog, today: date) -> list[Model]:
    """List the models that a task of a profile may run on, best first."""
    task = replace(ANY_TASK, profile=profile)
    most = TIERS.index(catalog.profile(profile).max_tier)
    return [
        model
        for model in candidates(task, catalog, today)
        if not model.is_retired(today) and TIERS.index(model.tier) <= most
    ]


def remedy(models: Sequence[Model], catalog: Catalog) -> str:
    """Say what makes one of these models available, the easiest first."""
    local = [model for model in models if model.engine in ENGINE_OF.values()]
    here = [model for model in local if model.engine != "mlx" or lack_of_mlx() is None]
    for model in here:
        if model.sources:
            return f"`fleet pull {model.name}`, then `fleet up`"
    for model in here:
        return f"start a worker that serves {model.name}: `fleet up`"
    for model in models:
        if model.engine == "cloud":
            key = catalog.providers[model.provider or ""].api_key_env
            set_it = f" with {key} in its environment" if key else ""
            return f"start a worker that asks for {model.name}: `fleet worker {lane_of(model)}`{set_it}"
    return "add a fallback that a host of yours can serve, in profiles.yaml"


def findings_of_keys(
    catalog: Catalog, *, queues: frozenset[str], queues_here: frozenset[str]
) -> Iterator[Finding]:
    """Judge the providers' keys by name: whether one is set is all that is looked at.

    Args:
        catalog: names the variables.
        queues: of the workers that are there.
        queues_here: of those on this host.
    """
    today = datetime.now(UTC).date()
    for provider in catalog.providers.values():
        models = [
            model
            for model in catalog.models.values()
            if model.provider == provider.name and not model.is_retired(today)
        ]
        if provider.api_key_env is not None and models:
            yield of_key(provider, provider.api_key_env, models, queues, queues_here)


def of_key(
    provider: Provider,
    variable: str,
    models: Sequence[Model],
    queues: frozenset[str],
    queues_here: frozenset[str],
) -> Finding:
    check = f"keys.{provider.name}"
    if not has_key(variable):
        if any(model.queue in queues for model in models):
            return ok(check, f"{variable} is not set here; a worker that has it is there")
        lost = counted(len(models), "model")
        return note(
            check,
            f"{variable} is not set: {lost} of {provider.name} cannot be called from here",
            f"set {variable} in the environment of the worker that is to use it",
        )
    if any(model.tier == "paid" for model in models) and not any(m.queue in queues_here for m in models):
        return warning(
            check,
            f"{variable} is set, and no paid worker runs on this host: any program here can spend it",
            f"unset {variable} here; set it in the environment of the paid worker and nowhere else",
        )
    return ok(check, f"{variable} is set")
