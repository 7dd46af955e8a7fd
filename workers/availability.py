"""Whether this host can run a local model, why not, and what to do. Offline, nothing is loaded."""

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from config.models import HuggingFaceSource, Model
from workers import mlx_host
from workers.absence import Absence
from workers.mlx_host import Lack
from workers.model_fetch import ASIDE
from workers.model_files import GB, MemoryFit, fits, locate, needed_for, room_bytes
from workers.model_sources import folder_of

FileState = Literal["here", "missing", "partial", "being fetched"]

State = Literal["ready", Lack, "missing", "partial", "being fetched", "no_memory"]


@dataclass(frozen=True)
class ModelFacts:
    """A local model's files on this host."""

    model: Model
    state: FileState
    size_bytes: int
    """Of what is here."""
    absence: Absence | None
    """None: it is here."""
    needed_bytes: int | None = None
    """What it takes in memory; None: that follows from its size."""


@dataclass(frozen=True)
class Availability:
    """Whether this host can run a model now."""

    model: str
    engine: str
    state: State
    why: str | None
    """None: it is ready."""
    what_to_do: str | None
    size_bytes: int
    """Of what is here."""

    def __str__(self) -> str:
        return self.state if self.why is None else f"{self.why}; {self.what_to_do}"


def availability(model: Model, *, is_loaded: bool = False, reclaimable_bytes: int = 0) -> Availability:
    """Look whether this host can run a local model; in milliseconds.

    Args:
        is_loaded: whether it is in memory already, so that no more is needed for it.
        reclaimable_bytes: what other models of this process take, which make room for it.
    """
    state: State = "ready"
    absence: Absence | None = None
    size_bytes = 0
    if model.sources and not is_loaded:  # without sources its engine needs no file
        state, absence, size_bytes = lack_of_engine(model) or state_of_files(
            facts_of(model), reclaimable_bytes
        )
    why, what_to_do = (absence.why, absence.what_to_do) if absence else (None, None)
    return Availability(model.name, model.engine, state, why, what_to_do, size_bytes)


def lack_of_engine(model: Model) -> tuple[State, Absence, int] | None:
    """Say why this host cannot run any model of that engine; None: it can."""
    if model.engine == "mlx" and (lack := mlx_host.lack_of_mlx()):
        return lack.lack, lack, 0
    if model.engine == "llama" and find_spec("llama_cpp") is None:
        return "no_library", Absence("llama.cpp is not installed", "`pip install 'aria-fleet[cpu]'`"), 0
    return None


def state_of_files(facts: ModelFacts, reclaimable_bytes: int = 0) -> tuple[State, Absence | None, int]:
    """Judge a model's files: are they all here, and do they fit in memory."""
    name, size = facts.model.name, facts.size_bytes
    if facts.state == "partial":
        half = f"it is only half here ({size / GB:.1f} GB)"
        return "partial", Absence(half, f"go on with `fleet pull {name}`"), size
    if facts.state == "being fetched":
        return "being fetched", Absence("it is being fetched", "wait for `fleet pull` to end"), size
    if facts.absence is not None:
        return "missing", facts.absence, size
    return *memory_of(facts, reclaimable_bytes), size


def memory_of(facts: ModelFacts, reclaimable_bytes: int) -> tuple[State, Absence | None]:
    """Compare what a model takes with the memory that is free, and with what a Mac's GPU may use of it."""
    needed = facts.needed_bytes or fits(facts.size_bytes).needed_bytes
    memory = MemoryFit(needed, room_bytes() + reclaimable_bytes)
    if not memory.is_enough:
        why = (
            f"it takes about {memory.needed_bytes / GB:.1f} GB of memory, of which "
            f"{memory.available_bytes / GB:.1f} GB are free"
        )
        return "no_memory", Absence(why, "close something or choose a smaller model")
    most = mlx_host.this_host().metal_bytes if facts.model.engine == "mlx" else None
    if most is not None and memory.needed_bytes > most:
        why = f"it takes about {memory.needed_bytes / GB:.1f} GB, of which the GPU may use {most / GB:.1f} GB"
        return "no_memory", Absence(why, "choose a smaller model")
    return "ready", None


def local_models(models: Iterable[Model]) -> list[Model]:
    """List those that need files on the host that runs them."""
    return [model for model in models if model.tier == "local" and model.sources]


def availabilities(
    models: Iterable[Model], loaded: Iterable[str] = (), reclaimable_bytes: int = 0
) -> Mapping[str, str]:
    """Say of each local model `ready`, or why this host cannot run it and what to do."""
    in_memory = frozenset(loaded)
    return {
        model.name: str(
            availability(model, is_loaded=model.name in in_memory, reclaimable_bytes=reclaimable_bytes)
        )
        for model in local_models(models)
    }


def absence_of(model: Model) -> str | None:
    """Say why a model cannot be served on this host and what to do; None: it can."""
    found = availability(model)
    return None if found.state == "ready" else str(found)


def facts_of(model: Model) -> ModelFacts:
    """Look at a model's files."""
    found = locate(model)
    if not isinstance(found, Absence):
        return ModelFacts(model, "here", found.size_bytes, None, needed_for(model, found))
    if is_being_fetched(model):
        return ModelFacts(model, "being fetched", 0, found)
    begun_bytes = sum(part.stat().st_size for part in parts_of(model))
    return ModelFacts(model, "partial" if begun_bytes else "missing", begun_bytes, found)


def is_being_fetched(model: Model) -> bool:
    """Tell whether a `fleet pull` holds the model's lock."""
    try:
        with (folder_of(model) / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def parts_of(model: Model) -> Iterator[Path]:
    """List what an interrupted fetch has left of a model that is not whole."""
    for aside in folder_of(model).glob(f"{ASIDE}*"):
        yield from (file for file in aside.rglob("*") if file.is_file())
    for source in model.sources:
        if isinstance(source, HuggingFaceSource):
            yield from parts_in_hugging_face_cache(source)


def parts_in_hugging_face_cache(source: HuggingFaceSource) -> Iterator[Path]:
    from huggingface_hub import constants  # noqa: PLC0415 - takes a third of a second

    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.hugging_face.replace('/', '--')}"
    yield from (repository / "blobs").glob("*.incomplete")
    if source.filename is None:  # of a repository that is not whole, each file is a part
        yield from (file for file in (repository / "snapshots").rglob("*") if file.is_file())
