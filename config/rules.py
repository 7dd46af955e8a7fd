"""What must hold between the entries of the catalog, beyond the types of their fields.

The rules look at the files as they stand, not at checked entries: an entry with one fault still has
its other faults reported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from config.document import Keys, section
from config.entry import hint
from config.models import TIERS

Raw = Mapping[str, Any]
"""An entry as it stands in the file."""

Faults = Iterator[tuple[Keys, str]]
"""(where, what was expected)"""

OF_LOCAL_ENGINES = ("mlx", "llama")
OF_CLOUD_ENGINE = ("provider", "upstream")
LISTS_OF_MODELS = ("fallbacks", "last_resort")


def faults_of_models(data: object) -> Faults:
    """Check models.yaml."""
    providers, models, every = names(data, "providers"), section(data, "models"), names(data, "models")
    yield from own_names(data, ("providers", "models"))
    for name, model in models.items():
        at = ("models", name)
        yield from faults_of_engine(at, model)
        yield from faults_of_local_api(at, model, entry(section(data, "providers"), model.get("provider")))
        yield from unknown((*at, "provider"), "provider", model.get("provider"), providers)
        if model.get("tier") == "paid" and not model.get("prices"):
            yield (*at, "prices"), "expected at least one: what a paid model costs must be known"
        if model.get("kind") == "embedding" and not model.get("dimensions"):
            yield (*at, "dimensions"), "is missing; an embedding model has a fixed length"
        yield from faults_of_successor(at, model, models, every)
    yield from cycles(models)


def faults_of_engine(at: Keys, model: Raw) -> Faults:
    if (engine := model.get("engine")) == "cloud":
        for key in OF_CLOUD_ENGINE:
            if not model.get(key):
                yield (*at, key), "is missing; the engine cloud needs it"
    elif engine in OF_LOCAL_ENGINES:
        if is_dearer(tier := model.get("tier"), "local"):
            yield (*at, "tier"), f"expected local, got {tier}; the engine is {engine}"
        if not model.get("sources"):
            yield (*at, "sources"), f"expected at least one: the engine {engine} needs a file to run"
        if engine == "llama":
            yield from faults_of_ggufs(at, model)


def faults_of_local_api(at: Keys, model: Raw, provider: Raw | None) -> Faults:
    """Refuse a model that costs nothing and stays at home, where nobody knows where it is."""
    is_local = model.get("engine") == "cloud" and model.get("tier") == "local"
    if is_local and provider is not None and not provider.get("api_base"):
        yield (*at, "tier"), "expected free or paid, got local; its provider has no api_base of yours"


def faults_of_ggufs(at: Keys, model: Raw) -> Faults:
    for index, source in enumerate(listed(model.get("sources"))):
        if isinstance(source, Mapping) and "hugging_face" in source and "filename" not in source:
            where = (*at, "sources", index, "filename")
            yield where, "is missing; the engine llama runs one GGUF of the repository"


def faults_of_successor(at: Keys, model: Raw, models: Mapping[str, Raw], every: Sequence[str]) -> Faults:
    name, here = model.get("successor"), (*at, "successor")
    if name is None:
        return
    yield from unknown(here, "model", name, every)
    if not model.get("retired_on"):
        yield (*at, "retired_on"), "is missing; a successor counts from that day on"
    successor = entry(models, name)
    if successor is None:
        return
    if (kind := kind_of(model)) != kind_of(successor):
        yield here, f"expected a model of kind {kind}, got {name}, which is of kind {kind_of(successor)}"
    if is_dearer(successor.get("tier"), model.get("tier")):
        yield here, f"expected tier {model['tier']} or cheaper, got {name}, which is {successor['tier']}"


def cycles(models: Mapping[str, Raw]) -> Faults:
    """Find successors that lead back to where they began; each ring once."""
    after = {
        name: model["successor"] for name, model in models.items() if isinstance(model.get("successor"), str)
    }
    for name in after:
        ring = [name]
        while (following := after.get(ring[-1])) and following not in ring:
            ring.append(following)
        if following == name == min(ring):
            yield ("models", name, "successor"), f"expected an end, got a ring: {' -> '.join([*ring, name])}"


def faults_of_profiles(data: object, of_models: object) -> Faults:
    """Check profiles.yaml against the models of models.yaml."""
    models, every = section(of_models, "models"), names(of_models, "models")
    yield from own_names(data, ("profiles", "focuses", "budgets"))
    for name, profile in section(data, "profiles").items():
        max_tier = profile.get("max_tier", "paid")
        for keys, model in references(("profiles", name), profile, "model", "fallbacks"):
            yield from wrong_model(keys, "chat", model, models, every)
            if is_dearer(tier := tier_of(models, model), max_tier):
                yield keys, f"expected tier {max_tier} (max_tier) or cheaper, got {model}, which is {tier}"
    for name, focus in section(data, "focuses").items():
        for keys, model in references(("focuses", name), focus, "model"):
            yield from wrong_model(keys, "chat", model, models, every)
    for name, budget in section(data, "budgets").items():
        for scope, kind, known in (
            ("profile", "profile", names(data, "profiles")),
            ("model", "model", every),
        ):
            yield from unknown(("budgets", name, scope), kind, budget.get(scope), known)
    routing = entry(data, "routing") or {}
    yield from wrong_model(("routing", "embedding"), "embedding", routing.get("embedding"), models, every)
    for keys, model in references(("routing",), routing, "primary", "fallbacks", "last_resort"):
        yield from wrong_model(keys, "chat", model, models, every)
        if keys[1] == "last_resort" and is_dearer(tier := tier_of(models, model), "local"):
            yield keys, f"expected a local model, got {model}, which is {tier}"


def faults_of_schedule(data: object, of_profiles: object, of_models: object) -> Faults:
    """Check schedule.yaml against the other two files."""
    profiles, focuses = names(of_profiles, "profiles"), names(of_profiles, "focuses")
    models, every = section(of_models, "models"), names(of_models, "models")
    yield from own_names(data, ("schedule",))
    for name, task in section(data, "schedule").items():
        at = ("schedule", name)
        yield from unknown((*at, "profile"), "profile", task.get("profile"), profiles)
        yield from unknown((*at, "focus"), "focus", task.get("focus"), focuses)
        kind = "embedding" if task.get("task") == "embed" else "chat"
        yield from wrong_model((*at, "model"), kind, task.get("model"), models, every)
        is_served = any(
            model.get("tier") == "local" and kind_of(model) == "chat" for model in models.values()
        )
        if task.get("each_worker") is True and not is_served:
            yield (
                (*at, "each_worker"),
                "expected a local chat model in models.yaml, to ask them with",
            )


def own_names(data: object, sections: Iterable[str]) -> Faults:
    for at in sections:
        for name, raw in section(data, at).items():
            if "name" in raw:
                yield (at, name, "name"), f"unknown key, expected none: {name!r} is the name"


def references(at: Keys, raw: Raw, *fields: str) -> Iterator[tuple[Keys, object]]:
    """List the names in some fields, of which some hold one and others several."""
    for field in fields:
        if field in LISTS_OF_MODELS:
            yield from (((*at, field, index), name) for index, name in enumerate(listed(raw.get(field))))
        else:
            yield (*at, field), raw.get(field)


def unknown(keys: Keys, kind: str, name: object, known: Sequence[str]) -> Faults:
    if isinstance(name, str) and name not in known:
        yield keys, f"expected the name of a {kind}, got {name!r}{hint(name, known)}"


def wrong_model(
    keys: Keys, kind: str, name: object, models: Mapping[str, Raw], every: Sequence[str]
) -> Faults:
    yield from unknown(keys, "model", name, every)
    model = entry(models, name)
    if model and kind_of(model) != kind:
        article = "an" if kind == "embedding" else "a"
        yield keys, f"expected {article} {kind} model, got {name}, which is of kind {kind_of(model)}"


def names(data: object, of: str) -> list[str]:
    """List the names of a section, also of entries that are no entries: those are reported once."""
    entries = entry(data, of)
    return [str(name) for name in entries] if entries else []


def entry(data: object, name: object) -> Raw | None:
    found = data.get(name) if isinstance(data, Mapping) and isinstance(name, str) else None
    return found if isinstance(found, Mapping) else None


def listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def kind_of(model: Raw) -> object:
    return model.get("kind", "chat")


def tier_of(models: Mapping[str, Raw], name: object) -> object:
    return (entry(models, name) or {}).get("tier")


def is_dearer(tier: object, than: object) -> bool:
    return tier in TIERS and than in TIERS and TIERS.index(tier) > TIERS.index(than)
