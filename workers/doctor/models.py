"""The local models of this host: which are here, which are half here, and do they fit in its memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec

import psutil

from config.catalog import Catalog
from config.models import Model
from workers import mlx_host
from workers.availability import ModelFacts, facts_of
from workers.doctor.finding import Finding, error, note, ok, warning
from workers.doctor.look import Silence
from workers.lanes import LANES, report
from workers.mlx_host import HostLack
from workers.model_files import GB, MemoryFit, fits
from workers.pull import starter_of
from workers.screen import names

LLAMA = ("llama_cpp", "cpu")
"""The package that the engine needs, and the extra of ours that brings it."""

LOW_MEMORY = 0.05


@dataclass(frozen=True)
class ModelsFacts:
    """The local models on this host."""

    models: Sequence[ModelFacts]
    """Those with files, of the engines that this version can run."""
    served: frozenset[str]
    """Models that a worker here would serve."""
    mlx_lack: HostLack | None
    """Why this host cannot run MLX models; None: it can."""
    starter: str | None
    """What `fleet up` would fetch, because nothing is here."""
    available_bytes: int
    total_bytes: int


NOTHING_SEEN = ModelsFacts((), frozenset(), None, None, 0, 1)


def look(catalog: Catalog) -> ModelsFacts:
    """Look for them; offline."""
    today = datetime.now(UTC).date()
    lanes = [report(lane, catalog) for lane in LANES]
    known = {
        *(model.name for lane in lanes for model in lane.models),
        *(name for lane in lanes for name, _ in lane.missing),
    }
    local = [
        model for model in catalog.models.values() if model.tier == "local" and not model.is_retired(today)
    ]
    served = frozenset(model.name for lane in lanes for model in lane.models)
    starter = None if served else starter_of(catalog)
    memory = psutil.virtual_memory()
    return ModelsFacts(
        models=[facts_of(model) for model in local if model.name in known and model.sources],
        served=served,
        mlx_lack=mlx_host.lack_of_mlx(),
        starter=starter.name if starter else None,
        available_bytes=memory.available,
        total_bytes=memory.total,
    )


def findings(seen: ModelsFacts | Silence, queues_here: frozenset[str]) -> Iterator[Finding]:
    """Judge them.

    Args:
        seen: by `look`.
        queues_here: of the workers on this host: what they serve is in memory already.
    """
    if isinstance(seen, Silence):
        yield error("models.files", f"the model files {seen.why}", "is a file system away that holds them?")
        return
    mlx = [facts.model for facts in seen.models if facts.model.engine == "mlx"]
    if mlx and seen.mlx_lack:
        yield of_mlx_host(mlx, seen.mlx_lack)
    for facts in seen.models:
        if facts.model in mlx and seen.mlx_lack:
            continue
        yield of_model(facts, fits(facts.size_bytes), is_served=facts.model.queue in queues_here)
    if seen.starter:
        yield note(
            "models.starter", "no model is on this host yet", f"`fleet up` fetches {seen.starter} by itself"
        )
    yield from of_libraries(seen)
    yield from of_memory(seen, queues_here)


def of_mlx_host(models: Sequence[Model], lack: HostLack) -> Finding:
    """Judge what a host lacks for MLX: a Mac that lacks something was probably meant to run them."""
    check, found = "models.mlx", f"{names(models)}: {lack.why}"
    return note(check, found) if lack.lack == "no_mac" else warning(check, found, lack.what_to_do)


def of_model(facts: ModelFacts, memory: MemoryFit, *, is_served: bool) -> Finding:
    check, name = f"models.{facts.model.name}", facts.model.name
    if facts.state == "being fetched":
        return note(check, f"{name} is being fetched by a `fleet pull`")
    if facts.state == "partial":
        return warning(
            check,
            f"{name} is only half here ({size(facts.size_bytes)})",
            f"`fleet pull {name}` goes on with it",
        )
    if facts.absence is not None:
        return note(check, f"{name} {facts.absence.why.removeprefix('it ')}", facts.absence.what_to_do)
    if is_served:
        return ok(check, f"{name} is served by a worker here ({size(facts.size_bytes)})")
    if not memory.is_enough:
        return warning(
            check,
            f"{name} does not fit in memory: it takes about {size(memory.needed_bytes)}, "
            f"{size(memory.available_bytes)} are free",
            "close something, or choose a smaller model",
        )
    return ok(check, f"{name} is here ({size(facts.size_bytes)})")


def of_libraries(seen: ModelsFacts) -> Iterator[Finding]:
    package, extra = LLAMA
    here = [each.model.name for each in seen.models if each.model.engine == "llama" and each.state == "here"]
    if here and find_spec(package) is None:
        yield error(
            "models.library",
            f"{', '.join(here)} cannot be run: {package} is not installed",
            f"`pip install 'aria-fleet[{extra}]'`",
        )


def of_memory(seen: ModelsFacts, queues_here: frozenset[str]) -> Iterator[Finding]:
    check = "models.memory"
    free = f"{size(seen.available_bytes)} of {size(seen.total_bytes)} of memory are free"
    loading = [
        each for each in seen.models if each.model.name in seen.served and each.model.queue not in queues_here
    ]
    needed = sum(fits(each.size_bytes).needed_bytes for each in loading)
    if needed > seen.available_bytes:
        yield warning(
            check,
            f"{free}; a worker that loads {names([each.model for each in loading])} takes {size(needed)}",
            "serve fewer at once: `fleet worker cpu --model NAME`",
        )
    elif seen.available_bytes < LOW_MEMORY * seen.total_bytes:
        yield warning(check, free, "close something: a host that swaps answers nobody")
    else:
        yield ok(check, free)


def size(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:,.0f} MB"
