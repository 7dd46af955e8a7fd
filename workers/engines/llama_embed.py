"""GGUF embedding models on the processor, through llama.cpp: the texts of several tasks in one step.

One thread owns the model. Each step takes texts of all tasks that wait, in turns, until the batch is full: a
short question does not wait behind somebody's two thousand documents.

`python -m workers.engines.llama_embed NAME FILE PROOF` is the child that proves a file; see `llama_check`.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from config.models import Model
from workers.absence import Absence
from workers.engines.base import Vectors
from workers.engines.errors import CancelledError, ModelUnavailableError, TextTooLongError
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
        self._jobs: deque[Job] = deque()
        self._tokenizing = 0
        """Callers that use the vocabulary now: it must not be freed under their hands."""
        self._changed = threading.Condition()
        self._is_closed = False
        loaded: Future[LlamaEmbedModel] = Future()

        def make() -> LlamaEmbedModel:
            return LlamaEmbedModel(
                name, path, context_tokens=context_tokens, step_tokens=STEP_TOKENS, threads=threads
            )

        # One thread loads, computes and frees, as in `LlamaEngine`.
        self._thread = threading.Thread(
            target=self._live, args=(loaded, make), name=f"llama-{name}", daemon=True
        )
        self._thread.start()
        self._model = loaded.result()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def dimensions(self) -> int:
        """How many numbers a vector has."""
        return self._model.dimensions

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool]) -> Vectors:
        """Turn texts into vectors. `cancelled` runs in the engine's thread: it must be quick.

        Raises:
            TextTooLongError: a text does not fit; found before any work is done.
            CancelledError: `cancelled` said so.
            ModelUnavailableError: the engine was closed, or llama.cpp failed.
        """
        job = Job(self._tokenize(texts), cancelled)
        with self._changed:
            self._check_open()
            self._jobs.append(job)
            self._changed.notify_all()
        return Vectors(job.done.result(), [len(tokens) for tokens in job.texts])

    def close(self) -> None:
        """Free the model; calls that still run fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        with self._changed:
            self._check_open()
            self._tokenizing += 1
        try:
            found = [self._model.tokenize(text) for text in texts]
        finally:
            with self._changed:
                self._tokenizing -= 1
                self._changed.notify_all()
        for index, tokens in enumerate(found):
            if len(tokens) > self._model.context_tokens:
                raise TextTooLongError(self.name, index, len(tokens), self._model.context_tokens)
        return found

    def _check_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()

    def _closed_error(self) -> ModelUnavailableError:
        return ModelUnavailableError(self.name, "the engine was closed")

    # What follows runs in the engine's thread.

    def _live(self, loaded: "Future[LlamaEmbedModel]", make: Callable[[], LlamaEmbedModel]) -> None:
        try:
            model = make()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
            loaded.set_exception(error)
            return
        loaded.set_result(model)
        try:
            while self._wait_for_jobs():
                self._step(model)
        finally:  # also after an error of our own: nobody may wait for vectors that never come
            with self._changed:
                self._is_closed = True
                self._changed.wait_for(lambda: not self._tokenizing)
                jobs = list(self._jobs)
                self._jobs.clear()
            for job in jobs:
                job.done.set_exception(self._closed_error())
            model.close()

    def _wait_for_jobs(self) -> bool:
        """Sleep while there is nothing to do; false: to be closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            return not self._is_closed

    def _step(self, model: LlamaEmbedModel) -> None:
        """Read as many texts as fit, one of each job in turn, and hand over what is whole."""
        self._drop_cancelled()
        owners = self._fill(model)
        if not owners:
            return
        try:
            vectors = model.compute([job.texts[index] for job, index in owners])
        except ModelUnavailableError as error:
            self._end({job for job, _ in owners}, error)
            return
        for (job, _), vector in zip(owners, vectors, strict=True):
            job.vectors.append(vector)
        for job in {job for job, _ in owners if len(job.vectors) == len(job.texts)}:
            self._remove(job)
            job.done.set_result(job.vectors)

    def _fill(self, model: LlamaEmbedModel) -> list[tuple[Job, int]]:
        """Choose the texts of the next step; of each job in their order."""
        with self._changed:
            turns = deque(job for job in self._jobs if job.begun < len(job.texts))
            self._jobs.rotate(-1)  # so that the first text of a step is another job's each time
        chosen: list[tuple[Job, int]] = []
        tokens = 0
        while turns and len(chosen) < model.most_texts:
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
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            try:
                if job.cancelled():
                    self._end({job}, CancelledError(self.name))
            except Exception as error:  # noqa: BLE001 - the caller's own function failed: it is the caller's error
                self._end({job}, error)

    def _end(self, jobs: set[Job], error: Exception) -> None:
        for job in jobs:
            self._remove(job)
            job.done.set_exception(error)

    def _remove(self, job: Job) -> None:
        with self._changed:
            self._jobs.remove(job)


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
