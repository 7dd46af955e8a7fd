"""`complete`, `embed` and `similar`: what agents call, and what lane workers run."""

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from celery import Task
from celery.app.task import Context
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from redis import RedisError

from config.settings import settings, without_password
from workers import tracing
from workers.app import DISPATCH_QUEUE, app
from workers.arguments import check_size
from workers.calls import AnyCall, check
from workers.catalog import catalog
from workers.errors import RedisUnreachableError
from workers.tracing import note, span


class CheckedTask(Task):
    """A task whose arguments are checked in the caller's process, before anything is sent."""

    queue = DISPATCH_QUEUE

    resultrepr_maxsize = 0
    """Celery's events carry so many characters of the result: an answer is for its caller alone."""

    def apply_async(  # pyright: ignore[reportIncompatibleMethodOverride] - Celery's options travel in `options`
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - Celery's own options, passed on as they are
    ) -> AsyncResult:
        """Enqueue a call, or raise at once if it can never run.

        Raises:
            InvalidCallError: an argument is not what it should be.
            UnknownNameError: the profile, focus or model is not in the catalog.
            PayloadTooLargeError: the arguments are larger than the fleet carries.
            RedisUnreachableError: there is no Redis to enqueue it in.
        """
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        key = kwargs.pop("idempotency_key", None)
        for argument, option in (("deadline", "expires"), ("priority", "priority")):
            if argument in kwargs:
                options[option] = kwargs.pop(argument)
        check_size([args, kwargs], settings().max_payload_bytes)
        call = check(str(self.name), catalog(), args, kwargs)
        if key is not None:
            options["task_id"] = task_id_of(key)
        elif options.get("task_id") is None:
            options["task_id"] = new_task_id()
        options.update(shown_arguments(call))
        try:
            with span("enqueue", kind="PRODUCER", fleet__profile=call.profile, fleet__agent=call.agent):
                options["headers"] = {**(options.get("headers") or {}), **tracing.headers()}
                sent = super().apply_async(args, kwargs, **options)
                note(fleet__task=sent.id)
        except (OperationalError, RedisError, RuntimeError) as error:
            # Celery's result backend gives up with a plain RuntimeError.
            raise RedisUnreachableError(without_password(settings().redis_url)) from error
        return sent


def new_task_id() -> str:
    """Make an id that begins with the time: UUID version 7, RFC 9562.

    New rows then stand side by side in the ledger's indexes. With random ids, as Celery makes them, each task
    touches a page of its own, and the more so the more history there is.
    """
    milliseconds = time.time_ns() // 1_000_000
    version, variant = 0x7 << 76, 0b10 << 62
    return str(
        UUID(int=milliseconds << 80 | version | secrets.randbits(12) << 64 | variant | secrets.randbits(62))
    )


def task_id_of(idempotency_key: str) -> str:
    """Make the task id of a key: the same key is the same task and the same result."""
    return str(uuid5(NAMESPACE_URL, f"fleet:{idempotency_key}"))


def shown_arguments(call: AnyCall) -> dict[str, str]:
    """Say what Flower shows of the arguments: profile and model, never the text."""
    shown = {"profile": call.profile, "focus": call.focus, "model": call.model, "agent": call.agent}
    return {"argsrepr": "()", "kwargsrepr": repr({key: value for key, value in shown.items() if value})}


@app.task(name="complete", base=CheckedTask, bind=True, typing=False)
def complete(
    self: Task,
    prompt: str | None = None,  # noqa: ARG001 - a lane reads the arguments from the ledger
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,  # noqa: ARG001
    profile: str | None = None,  # noqa: ARG001
    focus: str | None = None,  # noqa: ARG001
    model: str | None = None,  # noqa: ARG001
    agent: str | None = None,  # noqa: ARG001
    temperature: float | None = None,  # noqa: ARG001
    max_tokens: int | None = None,  # noqa: ARG001
    top_p: float | None = None,  # noqa: ARG001
    stop: str | Sequence[str] | None = None,  # noqa: ARG001
    seed: int | None = None,  # noqa: ARG001
    patience: float | None = None,  # noqa: ARG001
    deadline: float | datetime | None = None,  # noqa: ARG001
    priority: int | None = None,  # noqa: ARG001
    max_tier: str | None = None,  # noqa: ARG001
    max_cost_usd: str | float | None = None,  # noqa: ARG001
    top_k: int | None = None,  # noqa: ARG001
    min_p: float | None = None,  # noqa: ARG001
    presence_penalty: float | None = None,  # noqa: ARG001
    frequency_penalty: float | None = None,  # noqa: ARG001
    repeat_penalty: float | None = None,  # noqa: ARG001
    logit_bias: Mapping[str, float] | None = None,  # noqa: ARG001
    logprobs: bool | None = None,  # noqa: ARG001
    top_logprobs: int | None = None,  # noqa: ARG001
    grammar: str | None = None,  # noqa: ARG001
    response_format: Mapping[str, Any] | None = None,  # noqa: ARG001
    tools: Sequence[Mapping[str, Any]] | None = None,  # noqa: ARG001
    tool_choice: str | Mapping[str, Any] | None = None,  # noqa: ARG001
    expect: Mapping[str, Any] | None = None,  # noqa: ARG001
    metadata: Mapping[str, Any] | None = None,  # noqa: ARG001
    worker: str | None = None,  # noqa: ARG001
    idempotency_key: str | None = None,  # noqa: ARG001
) -> dict[str, Any]:
    """Ask a language model, on the cheapest one that will do.

    Args:
        prompt: the text; alternatively `messages`, or neither with a profile that has a default prompt.
            A completion, as a chain passes it on, means its text.
        messages: OpenAI-style chat messages.
        profile: the kind of work: model, fallbacks, temperature, max_tokens.
        focus: an agent's persona; names a model where no profile is given.
        model: a catalog name, before the profile's own.
        agent: who asks; for the books and for fairness.
        temperature, max_tokens, top_p, stop, seed: as in OpenAI's API, before the profile's own.
        patience: seconds to wait for a cheaper model that is busy, before the profile's own.
        deadline: seconds from now, or a time; past it the task fails with ExpiredError and costs nothing.
            Celery's `expires` is the same. A model on the processor is broken off then: DeadlineError.
        priority: 0 goes first (the default), 9 last.
        max_tier: `local`, `free` or `paid`: dearer models are passed over.
        max_cost_usd: models whose longest answer could cost more are passed over; what the task has cost
            so far counts.
        presence_penalty, frequency_penalty: as in OpenAI's API.
        top_k, min_p, repeat_penalty: as in llama.cpp; providers are not told.
        logit_bias, logprobs, top_logprobs, response_format, tools, tool_choice: as in OpenAI's API; only
            models that can do it are asked.
        grammar: what the answer must be, in llama.cpp's GBNF; only models that can do it are asked.
        expect: what the answer must be: `non_empty`, `min_length` (characters), `pattern` (a regular
            expression), `json_schema`. One that is not is rejected, and the next candidate is tried.
        metadata: a mapping that is kept with the task, for whoever reads the ledger.
        worker: the only one that may run it, on `model`, as `fleet status` names it; to try out one worker.
            Free ones and paid ones cannot be named.
        idempotency_key: the same key twice is the same task and the same result.

    Returns:
        An OpenAI chat.completion, with the key `fleet`: profile, model, tier, attempts,
        tokens_are_estimated, cost_usd, waited_s, ran_s.

    Raises:
        NoModelError, ExpiredError, InvalidCallError, EngineError: in the caller, from `get()`.
    """
    from workers.attempt import run_attempt  # noqa: PLC0415 - a producer needs neither psycopg nor an engine

    request: Context = self.request
    return run_attempt(request)


@app.task(name="embed", base=CheckedTask, bind=True, typing=False)
def embed(
    self: Task,
    texts: str | Sequence[str] | None = None,  # noqa: ARG001 - as above; the message to a lane has none
    *,
    model: str | None = None,  # noqa: ARG001
    input_type: str | None = None,  # noqa: ARG001
    collection: str | None = None,  # noqa: ARG001
    agent: str | None = None,  # noqa: ARG001
    deadline: float | datetime | None = None,  # noqa: ARG001
    priority: int | None = None,  # noqa: ARG001
    metadata: Mapping[str, Any] | None = None,  # noqa: ARG001
    idempotency_key: str | None = None,  # noqa: ARG001
) -> dict[str, Any]:
    """Turn texts into vectors; one that this model has read before is not computed again.

    Args:
        texts: a text or a list of them, 2048 at most. A completion, as a chain passes it on, means its text.
        model: an embedding model of the catalog; None: `routing.embedding`.
        input_type: what the texts are for: `query`, `document`, `classification` or `clustering`. The
            model's prefix for it is put before each; None: none is, but `document` with a collection.
        collection: where the texts are kept for `similar` to find them; made at its first use. A text that
            is there already is not there twice.
        agent, deadline, priority, metadata, idempotency_key: as in `complete`.

    Returns:
        OpenAI's response to a request for embeddings, with the key `fleet` as in `complete`: `data` has
        one vector of length 1 for each text, in their order.

    Raises:
        NoModelError, ExpiredError, InvalidCallError, EngineError: in the caller, from `get()`.
    """
    from workers.attempt import run_attempt  # noqa: PLC0415 - as above

    return run_attempt(self.request)


@app.task(name="similar", base=CheckedTask, bind=True, typing=False)
def similar(
    self: Task,
    text: str | None = None,  # noqa: ARG001 - as above
    *,
    collection: str | None = None,  # noqa: ARG001
    k: int = 5,  # noqa: ARG001
    model: str | None = None,  # noqa: ARG001
    agent: str | None = None,  # noqa: ARG001
    deadline: float | datetime | None = None,  # noqa: ARG001
    priority: int | None = None,  # noqa: ARG001
    metadata: Mapping[str, Any] | None = None,  # noqa: ARG001
    idempotency_key: str | None = None,  # noqa: ARG001
) -> dict[str, Any]:
    """Find the texts of a collection that are nearest in meaning.

    Args:
        text: what is searched for; embedded as a query. A completion means its text.
        collection: what `embed` was given; there is no default.
        k: how many, 1000 at most.
        model: the one that the collection was made with; None: `routing.embedding`.
        agent, deadline, priority, metadata, idempotency_key: as in `complete`.

    Returns:
        `data` has, best first, `text`, `score` (the cosine of the angle: 1 is the same) and `sha256` of the
        text; `model`, `usage` and `fleet` are as in `embed`.

    Raises:
        NoModelError, ExpiredError, InvalidCallError, EngineError: in the caller, from `get()`.
    """
    from workers.attempt import run_attempt  # noqa: PLC0415 - as above

    return run_attempt(self.request)
