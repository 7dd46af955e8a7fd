"""An attempt on a lane: claim -> run -> record, the same for every engine."""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event
from typing import Any
from uuid import UUID

import psycopg
import structlog
from celery.app.task import Context
from celery.exceptions import Ignore

from config.catalog import Catalog
from config.models import Model
from config.profiles import Expect
from config.settings import settings
from ledger.attempts import Claim, Finish, Key
from ledger.tasks import Fate
from routing.plan import output_tokens
from routing.price import cost_usd
from workers.completion import response
from workers.embedding import Done, embed
from workers.engines.base import Completion, Request
from workers.engines.errors import (
    AnswerRejectedError,
    CancelledError,
    ContentRefusedError,
    EngineError,
    PaymentRequiredError,
    QuotaSpentError,
)
from workers.failure import all_printable, stored
from workers.lane import Lane, the_lane
from workers.messages import ATTEMPT_HEADER
from workers.retention import NEVER, keep_text
from workers.sampling import engine_form
from workers.stream_writer import Transcript
from workers.tracing import note, span

log = structlog.get_logger()


def run_attempt(request: Context) -> dict[str, Any]:
    """Run the attempt that a message carries and record how it ended.

    Returns:
        What Celery stores under the task's id: a chat.completion, say.

    Raises:
        Ignore: there is nothing to tell the caller now. Somebody already claimed the attempt (Redis
            may deliver a message twice; the claim in Postgres, not Celery's ack, is the
            acknowledgement), or it failed and the brain will try another candidate.
        EngineError: no model can answer this; the caller gets it.
    """
    lane = the_lane()
    key = attempt_key(request)
    # Celery's threads are shared by all queues of this worker; the gate keeps each queue to its slots.
    queue = queue_of(request)
    gate = lane.gates[queue]
    if not gate.enter():
        lane.give_back(key, is_begun=False)
        raise Ignore
    began = time.monotonic()
    try:
        of_task = (str(key[0]), request.headers or {})
        with span("attempt", of_task, kind="CONSUMER", fleet__task=of_task[0], fleet__attempt=key[1]):
            return claim_and_run(lane, key)
    finally:
        gate.leave()
        lane.timed(queue, time.monotonic() - began)
        lane.take(queue, -1)
        if lane.is_full:
            lane.on_room()


def claim_and_run(lane: Lane, key: Key) -> dict[str, Any]:
    called_off = lane.begin(key)
    if called_off is None:
        log.info("dropped", task=str(key[0]), attempt=key[1], why="it runs here already")
        raise Ignore
    try:
        with span("claim"):
            claim = lane.claims(key)
        if claim is None:
            log.info("dropped", task=str(key[0]), attempt=key[1], why="claimed before, cancelled or unknown")
            raise Ignore
        return run_in_public(lane, claim, called_off)
    except psycopg.OperationalError as error:
        # The worker stops while Postgres is away. The brain publishes again what nobody claimed, and counts
        # as lost what nobody finishes.
        log.warning("abandoned", task=str(key[0]), attempt=key[1], error=type(error).__name__)
        raise Ignore from error
    finally:
        del lane.running[key]


def queue_of(request: Context) -> str:
    """Read which queue a message came from."""
    return (request.delivery_info or {})["routing_key"]


def attempt_key(request: Context) -> Key:
    """Read which attempt a message carries.

    Raises:
        Ignore: it carries none: somebody sent a task to a lane instead of to `dispatch`.
    """
    number = (request.headers or {}).get(ATTEMPT_HEADER)
    if not isinstance(number, int):
        log.warning(
            "dropped", task=request.id, why="it carries no attempt; send tasks to the queue `dispatch`"
        )
        raise Ignore
    return UUID(request.id), number


def run_in_public(lane: Lane, claim: Claim, called_off: Event) -> dict[str, Any]:
    """Run an attempt, and let those who want to read what it says as it comes."""
    transcript = lane.streams.begin((claim.task_id, claim.number))
    try:
        return run(lane, claim, called_off, transcript)
    finally:
        lane.streams.end(transcript)


def run(lane: Lane, claim: Claim, called_off: Event, transcript: Transcript) -> dict[str, Any]:
    model = lane.catalog.model(claim.model)
    failure: Exception
    try:
        with span("generate", gen_ai__request__model=model.upstream or model.name, fleet__tier=model.tier):
            done = (
                embed(lane, claim, model, called_off.is_set)
                if model.kind == "embedding"
                else generate(lane, claim, model, transcript, called_off)
            )
            note(
                gen_ai__usage__input_tokens=done.used.prompt_tokens,
                gen_ai__usage__output_tokens=done.used.completion_tokens,
            )
    except CancelledError as error:
        break_off(lane, claim)
        raise Ignore from error
    except EngineError as error:
        failure, next_state = error, "held" if may_go_on(lane.catalog, claim, error) else "failed"
        if isinstance(error, PaymentRequiredError | QuotaSpentError):
            lane.quota.ask_soon(model.provider)
    except Exception as error:  # noqa: BLE001 - a bug: recorded here, then raised again
        failure, next_state = error, "failed"
    else:
        return record_answer(lane, claim, model, done, transcript)
    finished_at = record(
        lane,
        Finish(
            claim.task_id,
            claim.number,
            outcome="failed",
            next_state=next_state,
            error=stored(failure),
            **spent_on_failure(model, failure),
        ),
    )
    if finished_at is not None:
        transcript.verdict = "void" if next_state == "held" else "over"
    log.warning(
        "failed", task=str(claim.task_id), model=model.name, error=type(failure).__name__, then=next_state
    )
    if next_state == "held":
        raise Ignore from failure
    raise failure


def record(lane: Lane, end: Finish) -> datetime | None:
    """Write down how an attempt ended.

    Returns:
        When; None: it had ended otherwise before.
    """
    cost = None if end.cost_usd is None else float(end.cost_usd)
    with span("record", fleet__outcome=end.outcome, fleet__cost_usd=cost):
        return lane.ends(end)


def break_off(lane: Lane, claim: Claim) -> None:
    """Leave an attempt that the engine did not end: the brain has ended it, or this worker is stopping."""
    log.info("broken_off", task=str(claim.task_id), attempt=claim.number)
    lane.give_back((claim.task_id, claim.number), is_begun=True)


def generate(lane: Lane, claim: Claim, model: Model, transcript: Transcript, called_off: Event) -> Done:
    """Let a chat model answer."""
    request = replace(engine_request(model, claim.request), deadline=claim.deadline)
    with lane.engine_for(model, called_off.is_set) as engine:
        answer = engine.generate(request, on_token=transcript.add, cancelled=called_off.is_set)
    return Done(answer, openai_choice(answer))


def record_answer(
    lane: Lane, claim: Claim, model: Model, done: Done, transcript: Transcript
) -> dict[str, Any]:
    """Record an answer with what it cost, and hand it over if it is what the task expects.

    Raises:
        Ignore: it is not, and the next candidate is tried; or it came too late.
    """
    choice = done.answer
    end = Finish(
        claim.task_id,
        claim.number,
        outcome="succeeded",
        next_state="succeeded",
        first_token_s=done.used.first_token_s,
        answer=kept(lane, claim, choice),
        **used_by(model, done.used),
    )
    why = rejection(claim.request, choice)
    if why is not None:
        error = stored(AnswerRejectedError(model.name, why))
        record(lane, replace(end, outcome="rejected", next_state="held", error=error))
        transcript.verdict = "void"
        log.warning("rejected", task=str(claim.task_id), model=model.name)
        raise Ignore
    finished_at = record(lane, end)
    if finished_at is None:
        log.info("late", task=str(claim.task_id), attempt=claim.number)
        raise Ignore
    transcript.verdict = "over"
    log.info("answered", task=str(claim.task_id), model=model.name, tokens=end.completion_tokens)
    cost, before = end.cost_usd, claim.spent_usd
    fate = Fate(
        id=claim.task_id,
        state="succeeded",
        profile=claim.profile,
        error=None,
        attempts=claim.number,
        accepted_at=claim.accepted_at,
        finished_at=finished_at,
        model=model.name,
        tier=model.tier,
        answer=choice,
        claimed_at=claim.claimed_at,
        prompt_tokens=end.prompt_tokens,
        cached_tokens=end.cached_tokens,
        completion_tokens=end.completion_tokens,
        tokens_are_estimated=done.used.is_estimated,
        cost_usd=None if cost is None or before is None else cost + before,
    )
    return response(fate, lambda _model, _hashes: done.vectors)


def rejection(stored_request: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    """Say why an answer is not what the task expects; None: it is, or nothing is expected."""
    expected = stored_request.get("expect")
    if expected is None:
        return None
    from workers.expectations import shortfall  # noqa: PLC0415 - most tasks expect nothing

    return shortfall(Expect.model_validate(expected), choice["message"])


def engine_request(model: Model, stored_request: Mapping[str, Any]) -> Request:
    """Make the engine's request out of what the ledger keeps."""
    return Request(
        messages=stored_request["messages"],
        max_tokens=output_tokens(model, stored_request["max_tokens"]),
        temperature=stored_request["temperature"],
        top_p=stored_request["top_p"],
        stop=tuple(stored_request["stop"]),
        seed=stored_request["seed"],
        response_format=stored_request.get("response_format"),
        tools=stored_request.get("tools"),
        tool_choice=stored_request.get("tool_choice"),
        **engine_form(stored_request.get("sampling") or {}),
    )


def openai_choice(answer: Completion) -> dict[str, Any]:
    """Write the answer as OpenAI does, with all that the provider gave."""
    content = None if answer.extras.get("tool_calls") and not answer.text else answer.text
    message = {"role": "assistant", "content": content, **answer.extras}
    choice = {"message": message, "finish_reason": answer.finish_reason}
    return all_printable(choice if answer.logprobs is None else {**choice, "logprobs": answer.logprobs})


def may_go_on(catalog: Catalog, claim: Claim, error: EngineError) -> bool:
    """Tell whether somebody else may try a task; a refused one only where its profile says so."""
    if isinstance(error, ContentRefusedError) and claim.profile is not None:
        return catalog.profile(claim.profile).on_refusal == "next"
    return error.again != "nobody"


def spent_on_failure(model: Model, failure: Exception) -> dict[str, Any]:
    """Say what a call used that gave no answer; unknown, and so counted as reserved, where nobody told."""
    used = getattr(failure, "used", None)
    if not isinstance(used, Completion):
        # An engine that says nothing of what was used has used nothing; a bug may come after any call.
        is_free = isinstance(failure, EngineError) or model.tier != "paid"
        return {"cost_usd": Decimal(0) if is_free else None}
    books = used_by(model, used)
    is_unknown = used.is_estimated and model.tier == "paid"
    return {**books, "cost_usd": None} if is_unknown else books


def used_by(model: Model, call: Completion) -> dict[str, Any]:
    """Write what a call used, as the ledger keeps it."""
    return {
        "prompt_tokens": call.prompt_tokens,
        "cached_tokens": call.cached_tokens,
        "completion_tokens": call.completion_tokens,
        "tokens_are_estimated": call.is_estimated,
        "cost_usd": cost_of(model, call),
    }


def kept(lane: Lane, claim: Claim, choice: dict[str, Any]) -> dict[str, Any] | None:
    """Give what the ledger keeps of an answer; None: nothing."""
    keep = keep_text(lane.catalog, claim.profile, default=settings().keep_text)
    return None if keep == NEVER else choice


def cost_of(model: Model, answer: Completion) -> Decimal | None:
    """Say what a call cost: the provider's own figure, else the dated price, else unknown."""
    if answer.cost_usd is not None:
        return answer.cost_usd
    return cost_usd(
        model,
        today(),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_tokens=answer.cached_tokens,
    )


def today() -> Any:  # noqa: ANN401
    return datetime.now(UTC).date()
