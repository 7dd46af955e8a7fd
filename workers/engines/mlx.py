"""MLX models, through mlx-lm: many answers at once in one engine. On Apple silicon they run on its GPU.

One thread owns the model; see `engine_thread`. What it does in a step is in `mlx_batch`.
"""

import time
from collections.abc import Callable
from pathlib import Path

from config.catalog import Model
from workers.absence import Absence
from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.engine_thread import EngineThread
from workers.engines.errors import ContextTooLongError, ModelUnavailableError
from workers.engines.mlx_batch import Call, MlxBatch
from workers.engines.mlx_json import schema_of
from workers.engines.mlx_memory import kv_budget_bytes, limit_memory
from workers.engines.mlx_model import MlxModel
from workers.model_files import locate


def load(model: Model, *, slots: int) -> "MlxEngine":
    """Load a model of the catalog from where it is on this host.

    Raises:
        ModelUnavailableError: it is not here, broken or of an unknown kind, or this host cannot run it.
    """
    found = locate(model)
    if isinstance(found, Absence):
        raise ModelUnavailableError(model.name, str(found))
    return MlxEngine(model.name, found.path, context_tokens=model.context_tokens, slots=slots)


class MlxEngine:
    """One MLX model; `generate` may be called from any number of threads."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        context_tokens: int,
        slots: int = 4,
        kv_bytes: int | None = None,
        keeps_heads: bool = True,
    ) -> None:
        """Load a model.

        Args:
            context_tokens: for one prompt with its answer; never more than the model was trained on.
            kv_bytes: memory for key-value caches; None: as much as the host can spare.
            keeps_heads: whether beginnings that prompts share are kept computed.

        Raises:
            ModelUnavailableError: the folder is broken or of an unknown kind, or there is no memory for it.
        """
        self.name = name
        self.slots = slots

        def make() -> MlxBatch:
            limit_memory()
            model = MlxModel(name, folder)
            budget = kv_budget_bytes() if kv_bytes is None else kv_bytes
            return MlxBatch(model, slots=slots, budget_bytes=budget, keeps_heads=keeps_heads)

        self._thread = EngineThread(name, make)
        with self._thread.visit() as batch:
            trained = batch.model.trained_context_tokens or context_tokens
            self.context_tokens = min(context_tokens, trained, batch.room_tokens)
            """Room for one prompt with its answer."""

    @property
    def is_closed(self) -> bool:
        return self._thread.is_closed

    def generate(
        self,
        request: Request,
        *,
        on_token: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Completion:
        """Answer a request. `on_token` and `cancelled` run in the engine's thread: they must be quick.

        Raises:
            BadRequestError: the chat template refuses the conversation, or llguidance the JSON schema.
            ContextTooLongError: it does not fit; found before any work is done.
            CancelledError: `cancelled` said so.
            DeadlineError: the request's deadline passed.
            ModelUnavailableError: the engine was closed, or MLX failed.
        """
        asked_at = time.monotonic()
        with self._thread.visit() as batch:
            prompt = batch.model.render(request.messages)
            needed = len(prompt) + request.max_tokens
            if needed > self.context_tokens:
                raise ContextTooLongError(self.name, needed, self.context_tokens)
            head = batch.model.heads.of(request.messages, prompt)
            schema = schema_of(request.response_format)
            constraint = None if schema is None else batch.model.rules().constraint(schema)
            answer = Answer(request.stop)
            call = Call(request, prompt, head, on_token, cancelled, constraint, answer, asked_at)
            self._thread.begin(call)
        return call.done.result()

    def close(self) -> None:
        """Free the model; calls that still run fail."""
        self._thread.close()
