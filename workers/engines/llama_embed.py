"""GGUF embedding models on the processor, through llama.cpp: the texts of several tasks in one step.

One thread owns the model. Each step takes texts of all tasks that wait, in turns, until the batch is full: a
short question does not wait behind somebody's two thousand documents.

`python -m workers.engines.llama_embed NAME FILE PROOF` is the child that proves a file; see `llama_check`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from config.models import Model
from workers.absence import Absence
from workers.engines.base import Vectors
from workers.engines.engine_thread import EngineThread, end_if_given_up, fail
from workers.engines.errors import ModelUnavailableError, TextTooLongError
from workers.engines.llama_check import Proof, main, prove
from workers.engines.llama_embed_model import LlamaEmbedModel
from workers.engines.llama_tuning import USUAL
from workers.model_files import locate

STEP_TOKENS = 512
"""Tokens in one step, where no single text has more."""


def load(model: Model, *, slots: int) -> "LlamaEmbedder":
    """Load an embedding model of the catalog from where it is on this host.

    Raises:
        ModelUnavailableError: it is not here, broken, of an unknown kind, or its vectors are not as long as
            the catalog says; or this build of llama.cpp cannot run it.
    """
    found = locate(model)
    if isinstance(found, Absence):
        raise ModelUnavailableError(model.name, str(found))
    prove(model.name, found.path, child="workers.engines.llama_embed")
    embedder = LlamaEmbedder(model.name, found.path, context_tokens=model.context_tokens, slots=slots)
    if embedder.dimensions != model.dimensions:
        embedder.close()
        why = f"its vectors have {embedder.dimensions} numbers, models.yaml says {model.dimensions}"
        raise ModelUnavailableError(model.name, f"{why}; correct `dimensions` or the file")
    return embedder


@dataclass(eq=False)
class Job:
    """One call of `embed`, while it is worked on."""

    texts: list[list[int]]
    """As tokens."""
    cancelled: Callable[[], bool]
    begun: int = 0
    """How many of them have gone into a step."""
    vectors: list[list[float]] = field(default_factory=list[list[float]])
    done: Future[list[list[float]]] = field(default_factory=Future[list[list[float]]])


class EmbedWork:
    """A loaded model and its calls; only the engine's thread touches it."""

    def __init__(self, model: LlamaEmbedModel) -> None:
        self.model = model
        self.waiting: deque[Job] = deque()
        """Also those that have begun: each until all its texts are read."""

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def forget_all(self) -> tuple[Job, ...]:
        """Stop nothing: what has begun waits, too."""
        return ()

    def close(self) -> None:
        """Free the model."""
        self.model.close()

    def step(self) -> None:
        """Read as many texts as fit, one of each job in turn, and hand over what is whole."""
        self._drop_cancelled()
        owners = self._fill()
        if not owners:
            return
        try:
            vectors = self.model.compute([job.texts[index] for job, index in owners])
        except ModelUnavailableError as error:
            jobs = {job for job, _ in owners}
            for job in jobs:
                self.waiting.remove(job)
            fail(jobs, error)
            return
        for (job, _), vector in zip(owners, vectors, strict=True):
            job.vectors.append(vector)
        for job in {job for job, _ in owners if len(job.vectors) == len(job.texts)}:
            self.waiting.remove(job)
            job.done.set_result(job.vectors)

    def _fill(self) -> list[tuple[Job, int]]:
        """Choose the texts of the next step; of each job in their order."""
        turns = deque(job for job in self.waiting if job.begun < len(job.texts))
        self.waiting.rotate(-1)  # so that the first text of a step is another job's each time
        chosen: list[tuple[Job, int]] = []
        tokens = 0
        while turns and len(chosen) < self.model.most_texts:
            job = turns.popleft()
            needed = len(job.texts[job.begun])
            if chosen and tokens + needed > STEP_TOKENS:
                continue  # a shorter one of another job may fit
            chosen.append((job, job.begun))
            tokens += needed
            job.begun += 1
            if job.begun < len(job.texts):
                turns.append(job)
        return chosen

    def _drop_cancelled(self) -> None:
        for job in tuple(self.waiting):
            if end_if_given_up(job, self.model.name):
                self.waiting.remove(job)


class LlamaEmbedder:
    """One GGUF embedding model; `embed` may be called from any number of threads."""

    def __init__(
        self, name: str, path: Path, *, context_tokens: int, slots: int = 4, threads: int | None = None
    ) -> None:
        """Load a model.

        Args:
            context_tokens: that it reads of one text; never more than the model was trained on.
            threads: the most that one step may use; None: one for each core.

        Raises:
            ModelUnavailableError: the file is missing, broken or of an unknown kind, or there is no
                memory for it.
        """
        self.name = name
        self.slots = slots
        self._thread = EngineThread(
            name,
            lambda: EmbedWork(
                LlamaEmbedModel(
                    name, path, context_tokens=context_tokens, step_tokens=STEP_TOKENS, threads=threads
                )
            ),
        )

    @property
    def is_closed(self) -> bool:
        return self._thread.is_closed

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return self._thread.work.model.dimensions

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool]) -> Vectors:
        """Turn texts into vectors. `cancelled` runs in the engine's thread: it must be quick.

        Raises:
            TextTooLongError: a text does not fit; found before any work is done.
            CancelledError: `cancelled` said so.
            ModelUnavailableError: the engine was closed, or llama.cpp failed.
        """
        with self._thread.visit() as work:
            job = Job(tokenize(work.model, texts), cancelled)
            self._thread.begin(job)
        return Vectors(job.done.result(), [len(tokens) for tokens in job.texts])

    def close(self) -> None:
        """Free the model; calls that still run fail."""
        self._thread.close()


def tokenize(model: LlamaEmbedModel, texts: Sequence[str]) -> list[list[int]]:
    """Turn texts into tokens.

    Raises:
        TextTooLongError: a text does not fit.
    """
    found = [model.tokenize(text) for text in texts]
    for index, tokens in enumerate(found):
        if len(tokens) > model.context_tokens:
            raise TextTooLongError(model.name, index, len(tokens), model.context_tokens)
    return found


def embed_once(name: str, path: Path) -> Proof:
    """Load a model and let it read two texts.

    Raises:
        ModelUnavailableError: llama.cpp refuses the file, or the step fails.
    """
    before = psutil.Process().memory_info().rss
    model = LlamaEmbedModel(name, path, context_tokens=64, step_tokens=64)
    weights_bytes = psutil.Process().memory_info().rss - before
    model.compute([model.tokenize("One two three four."), model.tokenize("Five six seven eight.")])
    model.close()
    return Proof(name, str(path), USUAL, weights_bytes, has_template=False)


if __name__ == "__main__":
    main(embed_once)
