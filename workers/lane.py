"""The lane: claim -> run -> record, the same for every engine."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event, Lock
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
from ledger import attempts, unfinished
from ledger.attempts import Claim, Finish, Key
from ledger.connect import Connection
from ledger.tasks import Fate
from routing.pace import LEARNING_RATE
from routing.plan import output_tokens
from routing.price import cost_usd
from routing.vitals import AHEAD_S
from workers.alive import LEASE_S, Alive
from workers.batcher import Batcher
from workers.completion import completion
from workers.engines import make_engine
from workers.engines.base import Completion, Engine, Request
from workers.engines.errors import AnswerRejectedError, CancelledError, ContentRefusedError, EngineError
from workers.errors import WorkerStoppedError
from workers.failure import all_printable, stored
from workers.gate import Gate
from workers.messages import ATTEMPT_HEADER
from workers.reconnecting import Reconnecting
from workers.retention import NEVER, keep_text

BREAK_OFF_S = 5.0
"""How long an engine may take to stop once nobody wants its answer."""

GOODBYE_S = 1.0
"""How long telling the brain that the worker leaves may take."""

LOOK_AGAIN_S = 0.05

Return = tuple[Key, bool]
"""(attempt, whether this worker has begun it)"""

MOST_AHEAD = 64
"""Messages that a worker takes beyond its slots; what it has taken, no other worker can run."""

log = structlog.get_logger()


def nothing() -> None:
    """Do nothing."""


@dataclass
class Lane:
    """A worker's ledger connections, its engines, and the attempts that it runs."""

    database_url: str
    catalog: Catalog
    worker: str
    slots: Mapping[str, int]
    """Attempts it can run at once, by queue."""
    engines: dict[str, Engine] = field(default_factory=dict[str, Engine])
    running: dict[Key, Event] = field(default_factory=dict[Key, Event])
    """What it runs; set: nobody wants the answer any more."""
    leaving: Event = field(default_factory=Event)
    """Set: it begins nothing any more."""
    closing: Event = field(default_factory=Event)
    """Set: it waits for nobody any more."""
    loading: Lock = field(default_factory=Lock)
    on_room: Callable[[], None] = nothing
    """Called when an attempt has ended."""
    is_hurried: bool = False
    """What runs is not given the time to end."""
    taken: Counter[str] = field(default_factory=Counter[str])
    """Messages that this worker has and that have not ended, by queue."""
    counting: Lock = field(default_factory=Lock)
    service_s: dict[str, float] = field(default_factory=dict[str, float])
    """How long an attempt takes, a running average by queue."""

    def __post_init__(self) -> None:
        self.gates = {queue: Gate(slots) for queue, slots in self.slots.items()}
        self.claims_db = Reconnecting(self.database_url, "claims")
        self.ends_db = Reconnecting(self.database_url, "ends")
        self.returns_db = Reconnecting(self.database_url, "returns")
        self.claims = Batcher(self.claim_all)
        self.ends = Batcher(self.finish_all)
        self.returns = Batcher(self.return_all)
        self.alive = Alive(self.database_url, self.worker, self.slots, self.running)

    def claim_all(self, keys: Sequence[Key]) -> list[Claim | None]:
        """Claim attempts; while Postgres is away they wait, until the worker leaves."""

        def claim(db: Connection, is_again: bool) -> dict[Key, Claim]:  # noqa: FBT001 - as `insist` calls it
            return attempts.claim(db, keys, worker=self.worker, lease_s=LEASE_S, again=is_again)

        claimed = self.claims_db.insist(claim, self.leaving)
        return [claimed.get(key) for key in keys]

    def finish_all(self, ends: Sequence[Finish]) -> list[datetime | None]:
        """Record how attempts ended; while Postgres is away, the answers are kept here."""
        finished = self.ends_db.insist(lambda db, _: attempts.finish(db, ends), self.closing)
        return [finished.get((end.task_id, end.number)) for end in ends]

    def return_all(self, returns: Sequence[Return]) -> list[bool]:
        """Let the brain plan anew what this worker does not run, or not to its end.

        Returns:
            Whether each was this worker's to return.
        """
        error = stored(WorkerStoppedError(self.worker))
        returned: set[Key] = set()
        for worker in (self.worker, None):
            keys = [key for key, is_begun in returns if is_begun == (worker is not None)]
            returned |= self.returns_db.insist(
                lambda db, _, keys=keys, worker=worker: unfinished.hand_back(
                    db, keys, worker=worker, error=error
                ),
                self.closing,
            )
        return [key in returned for key, _ in returns]

    def give_back(self, key: Key, *, is_begun: bool) -> None:
        """Hand an attempt back to the brain; if Postgres does not come back in time, the sweep finds it."""
        if self.leaving.is_set():
            self.alive.gone.wait(GOODBYE_S)  # or the brain would send it here again
        with suppress(psycopg.OperationalError):
            if self.returns((key, is_begun)):
                log.info("handed_back", task=str(key[0]), attempt=key[1], begun=is_begun)

    def engine_for(self, model: Model) -> Engine:
        """Load a model at its first use."""
        with self.loading:
            engine = self.engines.get(model.name)
            if engine is None or engine.is_closed:
                began = time.monotonic()
                self.engines[model.name] = make_engine(
                    model, self.slots.get(model.queue, 1), self.catalog.providers.get(model.provider or "")
                )
                log.info("loaded", model=model.name, took_s=round(time.monotonic() - began, 2))
            return self.engines[model.name]

    def places(self, queue: str) -> int:
        """Count the messages that a queue may have here: one for each slot, and more if they are short."""
        slots, service_s = self.slots[queue], self.service_s.get(queue)
        ahead = 0 if service_s is None else int(slots * AHEAD_S / max(service_s, 1e-6))
        return slots + min(ahead, MOST_AHEAD)

    def take(self, queue: str, count: int) -> None:
        """Count messages that came, or that ended."""
        with self.counting:
            self.taken[queue] += count

    def timed(self, queue: str, service_s: float) -> None:
        """Learn how long an attempt took."""
        before = self.service_s.get(queue, service_s)
        self.service_s[queue] = before + LEARNING_RATE * (service_s - before)

    def begin(self, key: Key) -> Event | None:
        """Count an attempt among those that run here; None: it is there already."""
        called_off = Event()
        return called_off if self.running.setdefault(key, called_off) is called_off else None

    def leave(self) -> None:
        """Say goodbye: the brain sends no more, and what waits here is handed back."""
        self.leaving.set()
        self.alive.leave()
        for gate in self.gates.values():
            gate.shut()

    def drain(self, finish_s: float, break_off_s: float = BREAK_OFF_S) -> bool:
        """Let what runs come to its end; then break it off, and hand it back.

        Args:
            finish_s: how long it may take to its end; nothing once the worker is hurried.
            break_off_s: how long an engine may take to notice.

        Returns:
            Whether all engines have stopped. What one goes on with is handed back all the same.
        """
        self.leave()
        wait_until(lambda: not self.running or self.is_hurried, finish_s)
        for called_off in list(self.running.values()):
            called_off.set()
        wait_until(lambda: not self.running, break_off_s)
        stuck = list(self.running)
        self.closing.set()
        for key in stuck:
            self.give_back(key, is_begun=True)
        wait_until(lambda: not self.running, LOOK_AGAIN_S * len(stuck))
        return not self.running

    def close(self) -> None:
        """Free the models; nothing runs any more."""
        self.leave()
        self.closing.set()
        self.alive.close()
        for db in (self.claims_db, self.ends_db, self.returns_db):
            db.close()
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()


def wait_until(is_so: Callable[[], bool], limit_s: float) -> None:
    """Wait until something is so, or for so long."""
    end = time.monotonic() + limit_s
    while not is_so() and time.monotonic() < end:
        time.sleep(LOOK_AGAIN_S)


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
    queue = queue_of(request)
    gate = lane.gates[queue]
    if not gate.enter():
        lane.give_back(key, is_begun=False)
        raise Ignore
    began = time.monotonic()
    try:
        return claim_and_run(lane, key)
    finally:
        gate.leave()
        lane.timed(queue, time.monotonic() - began)
        lane.take(queue, -1)
        lane.on_room()


def claim_and_run(lane: Lane, key: Key) -> dict[str, Any]:
    called_off = lane.begin(key)
    if called_off is None:
        log.info("dropped", task=str(key[0]), attempt=key[1], why="it runs here already")
        raise Ignore
    try:
        claim = lane.claims(key)
        if claim is None:
            log.info("dropped", task=str(key[0]), attempt=key[1], why="claimed before, cancelled or unknown")
            raise Ignore
        return run(lane, claim, called_off)
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


def run(lane: Lane, claim: Claim, called_off: Event) -> dict[str, Any]:
    model = lane.catalog.model(claim.model)
    failure: Exception
    try:
        answer = lane.engine_for(model).generate(
            engine_request(model, claim.request), on_token=ignore_token, cancelled=called_off.is_set
        )
    except CancelledError as error:
        break_off(lane, claim)
        raise Ignore from error
    except EngineError as error:
        failure, next_state = error, "held" if may_go_on(lane.catalog, claim, error) else "failed"
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
            error=stored(failure),
            **spent_on_failure(model, failure),
        )
    )
    log.warning(
        "failed", task=str(claim.task_id), model=model.name, error=type(failure).__name__, then=next_state
    )
    if next_state == "held":
        raise Ignore from failure
    raise failure


def break_off(lane: Lane, claim: Claim) -> None:
    """Leave an attempt that the engine did not end: the brain has ended it, or this worker is stopping."""
    log.info("broken_off", task=str(claim.task_id), attempt=claim.number)
    lane.give_back((claim.task_id, claim.number), is_begun=True)


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
            tokens_are_estimated=answer.is_estimated,
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
            tokens_are_estimated=answer.is_estimated,
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
    is_unknown = used.is_estimated and model.tier == "paid"
    return {
        "prompt_tokens": used.prompt_tokens,
        "cached_tokens": used.cached_tokens,
        "completion_tokens": used.completion_tokens,
        "tokens_are_estimated": used.is_estimated,
        "cost_usd": None if is_unknown else cost_of(model, used),
    }


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
