"""The lane: claim -> run -> record, the same for every engine."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from threading import BoundedSemaphore, Event, Lock, Thread
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
from ledger import attempts, workers
from ledger.attempts import Claim, Finish, Key
from ledger.connect import Connection, connect
from ledger.tasks import Fate
from routing.plan import output_tokens
from routing.price import cost_usd
from workers.batcher import Batcher
from workers.completion import completion
from workers.engines import make_engine
from workers.engines.base import Completion, Engine, Request
from workers.engines.errors import AnswerRejectedError, EngineError
from workers.failure import printable, stored
from workers.messages import ATTEMPT_HEADER
from workers.retention import NEVER, keep_text

LEASE_S = 30.0
"""How long an attempt stays this worker's without another sign of life."""

BEAT_S = 2.0
"""How often the worker shows that it is there, and renews its leases."""

log = structlog.get_logger()


@dataclass
class Lane:
    """A worker's ledger connections, its engines, and the attempts that it runs."""

    database_url: str
    catalog: Catalog
    worker: str
    slots: Mapping[str, int]
    """Attempts it can run at once, by queue."""
    engines: dict[str, Engine] = field(default_factory=dict[str, Engine])
    running: set[Key] = field(default_factory=set[Key])
    leaving: Event = field(default_factory=Event)
    closing: Event = field(default_factory=Event)
    wake: Event = field(default_factory=Event)
    loading: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.gates = {queue: BoundedSemaphore(slots) for queue, slots in self.slots.items()}
        self.claims_db = Reconnecting(self.database_url, "claims")
        self.ends_db = Reconnecting(self.database_url, "ends")
        self.claims = Batcher(self.claim_all)
        self.ends = Batcher(self.finish_all)
        self.beat = Thread(target=self.keep_alive, name="presence", daemon=True)
        self.beat.start()

    def claim_all(self, keys: Sequence[Key]) -> list[Claim | None]:
        claimed = attempts.claim(self.claims_db.get(), keys, worker=self.worker, lease_s=LEASE_S)
        return [claimed.get(key) for key in keys]

    def finish_all(self, ends: Sequence[Finish]) -> list[datetime | None]:
        finished = attempts.finish(self.ends_db.get(), ends)
        return [finished.get((end.task_id, end.number)) for end in ends]

    def engine_for(self, model: Model) -> Engine:
        """Load a model at its first use."""
        with self.loading:
            engine = self.engines.get(model.name)
            if engine is None or engine.is_closed:
                began = time.monotonic()
                self.engines[model.name] = make_engine(model, self.slots.get(model.queue, 1))
                log.info("loaded", model=model.name, took_s=round(time.monotonic() - began, 2))
            return self.engines[model.name]

    def keep_alive(self) -> None:
        """Keep the worker's row fresh until it leaves, and its leases as long as anything runs."""
        db = Reconnecting(self.database_url, "presence")
        is_shown, is_last = False, False
        while not is_last:
            is_last = self.closing.is_set()
            try:
                is_shown = self.show(db.get(), is_shown=is_shown)
                attempts.renew(db.get(), list(self.running), lease_s=LEASE_S)
            except psycopg.Error as error:
                log.warning("presence_not_recorded", error=type(error).__name__)
            if not is_last:
                self.wake.wait(BEAT_S)
                self.wake.clear()
        db.close()

    def show(self, db: Connection, *, is_shown: bool) -> bool:
        """Write or remove the worker's row, and tell the brain when that changes something.

        Returns:
            Whether the row is there now.
        """
        is_leaving = self.leaving.is_set()
        if not is_leaving:
            host, pid = socket.gethostname(), os.getpid()
            workers.seen(db, name=self.worker, host=host, pid=pid, slots=dict(self.slots))
        elif is_shown:
            workers.left(db, self.worker)
        if is_shown == is_leaving:
            workers.notify(db)
        return not is_leaving

    def leave(self) -> None:
        """Say goodbye: the brain sends no more, while what runs goes on to its end."""
        self.leaving.set()
        self.wake.set()

    def close(self) -> None:
        """Free the models; nothing runs any more."""
        self.leaving.set()
        self.closing.set()
        self.wake.set()
        self.beat.join()
        self.claims_db.close()
        self.ends_db.close()
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()


class Reconnecting:
    """A connection that one thread uses, opened again after it broke."""

    def __init__(self, database_url: str, name: str) -> None:
        self.database_url = database_url
        self.name = name
        self.db: Connection | None = None

    def get(self) -> Connection:
        """Give a connection that works, as far as is known.

        Raises:
            psycopg.OperationalError: no server answers.
        """
        if self.db is None or self.db.closed:
            self.db = connect(self.database_url, name=self.name, by_key=True)
        return self.db

    def close(self) -> None:
        """Close it, if it is open."""
        if self.db is not None:
            self.db.close()


open_lane: Lane | None = None
"""This process's lane: a worker has one, from its start to its end."""


def the_lane() -> Lane:
    """Give this process's lane.

    Raises:
        RuntimeError: this process is no lane worker.
    """
    if open_lane is None:
        message = "no lane is open: `complete` runs in a worker started by `fleet worker`"
        raise RuntimeError(message)
    return open_lane


def run_attempt(request: Context) -> dict[str, Any]:
    """Run the attempt that a message carries and record how it ended.

    Returns:
        The chat.completion that Celery stores under the task's id.

    Raises:
        Ignore: there is nothing to tell the caller now. Somebody already claimed the attempt (Redis
            may deliver a message twice; the claim in Postgres, not Celery's ack, is the
            acknowledgement), or it failed and the brain will try another candidate.
        EngineError: no model can answer this; the caller gets it.
    """
    lane = the_lane()
    key = attempt_key(request)
    # Celery's threads are shared by all queues of this worker; the gate keeps each queue to its slots.
    with lane.gates[queue_of(request)]:
        claim = lane.claims(key)
        if claim is None:
            log.info("dropped", task=str(key[0]), attempt=key[1], why="claimed before, cancelled or unknown")
            raise Ignore
        lane.running.add(key)
        try:
            return run(lane, claim)
        finally:
            lane.running.discard(key)


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


def run(lane: Lane, claim: Claim) -> dict[str, Any]:
    model = lane.catalog.model(claim.model)
    failure: Exception
    try:
        answer = lane.engine_for(model).generate(
            engine_request(model, claim.request), on_token=ignore_token, cancelled=never
        )
    except EngineError as error:
        failure, next_state = error, "failed" if error.again == "nobody" else "held"
    except Exception as error:  # noqa: BLE001 - a bug: recorded here, then raised again
        failure, next_state = error, "failed"
    else:
        why = rejection(claim.request, answer)
        if why is None:
            return record_answer(lane, claim, model, answer)
        record_rejection(lane, claim, model, answer, why)
        raise Ignore
    lane.ends(
        Finish(
            claim.task_id,
            claim.number,
            outcome="failed",
            next_state=next_state,
            cost_usd=cost_usd(model, today(), prompt_tokens=0, completion_tokens=0),
            error=stored(failure),
        )
    )
    log.warning(
        "failed", task=str(claim.task_id), model=model.name, error=type(failure).__name__, then=next_state
    )
    if next_state == "held":
        raise Ignore from failure
    raise failure


def record_answer(lane: Lane, claim: Claim, model: Model, answer: Completion) -> dict[str, Any]:
    cost = cost_of(model, answer)
    finished_at = lane.ends(
        Finish(
            claim.task_id,
            claim.number,
            outcome="succeeded",
            next_state="succeeded",
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=cost,
            first_token_s=answer.first_token_s,
            answer=kept_choice(lane, claim, answer),
        )
    )
    if finished_at is None:
        log.info("late", task=str(claim.task_id), attempt=claim.number)
        raise Ignore
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
        answer=openai_choice(answer),
        claimed_at=claim.claimed_at,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        completion_tokens=answer.completion_tokens,
        cost_usd=None if cost is None or claim.spent_usd is None else cost + claim.spent_usd,
    )
    log.info("answered", task=str(claim.task_id), model=model.name, tokens=answer.completion_tokens)
    return completion(fate)


def rejection(stored_request: Mapping[str, Any], answer: Completion) -> str | None:
    """Say why an answer is not what the task expects; None: it is, or nothing is expected."""
    expected = stored_request.get("expect")
    if expected is None:
        return None
    from workers.expectations import shortfall  # noqa: PLC0415 - most tasks expect nothing

    return shortfall(Expect.model_validate(expected), openai_choice(answer)["message"])


def record_rejection(lane: Lane, claim: Claim, model: Model, answer: Completion, why: str) -> None:
    """Keep the answer with its cost, and send the task back: the next candidate is tried."""
    lane.ends(
        Finish(
            claim.task_id,
            claim.number,
            outcome="rejected",
            next_state="held",
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=cost_of(model, answer),
            first_token_s=answer.first_token_s,
            error=stored(AnswerRejectedError(model.name, why)),
            answer=kept_choice(lane, claim, answer),
        )
    )
    log.warning("rejected", task=str(claim.task_id), model=model.name)


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
    )


def openai_choice(answer: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": printable(answer.text)}
    return {"message": message, "finish_reason": answer.finish_reason}


def kept_choice(lane: Lane, claim: Claim, answer: Completion) -> dict[str, Any] | None:
    """Give what the ledger keeps of an answer; None: nothing."""
    keep = keep_text(lane.catalog, claim.profile, default=settings().keep_text)
    return None if keep == NEVER else openai_choice(answer)


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


def ignore_token(_: str) -> None:
    """Let a token pass: nobody streams it."""


def never() -> bool:
    """Say that nobody has cancelled."""
    return False
