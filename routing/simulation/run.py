"""The clock: events in order, each with what it does to the lanes, the meters and the policy."""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from config.models import Model
from routing.key import Key
from routing.lessons import Lesson
from routing.plan import output_tokens, worst_cost_usd
from routing.price import cost_usd
from routing.simulation.chance import chance
from routing.simulation.meter import Meter
from routing.simulation.policies import Arrival, GiveUp, Policy, Start
from routing.simulation.tally import Tally
from routing.simulation.world import Outage, World
from routing.vitals import AWAY, Ended

CLAIM_AFTER = timedelta(milliseconds=50)
"""From a placement, or from a slot that came free, to the claim."""

NETWORK_S = 0.5
"""From the claim until the provider counts the request, at most."""

REFUSAL_S = 0.3
"""Until a request is turned away."""

FAULT_S = 5.0
"""Until a call fails that a provider does not answer, on average."""

UNCLAIMED_FOR = timedelta(seconds=15)
"""How long a dispatcher lets an attempt lie on a queue that nobody serves any more."""

MISSED_AFTER = timedelta(seconds=10)
"""How long a worker may be silent before it is no longer counted on; as in the fleet."""

LEASE = timedelta(seconds=30)
"""How long an attempt still belongs to a worker that went away; as in the fleet."""

AFTERWARDS = timedelta(days=3)
"""How long after the last arrival the tasks that still wait are watched."""

POLL = timedelta(seconds=1)
"""How long the begin of a call may stay unnoticed; as in the fleet."""

SHORTEST_SLEEP = timedelta(milliseconds=1)

EVENTS_BETWEEN_REPORTS = 2000


@dataclass
class Call:
    """One attempt."""

    key: Key
    arrival: Arrival
    model: Model
    claimed_at: datetime | None = None


@dataclass
class Lane:
    """The workers of a queue."""

    slots: int
    running: int = 0
    left_at: datetime | None = None
    """None: they are there."""
    waiting: deque[Call] = field(default_factory=deque[Call])


class Simulation:
    """One policy in one world."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        arrivals: Iterable[Arrival],
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        """Set the clock to the first arrival.

        Args:
            world: what the policy does not decide.
            policy: who decides; it must be new.
            arrivals: with ids that are all different.
            on_progress: told the share of the time that has passed, now and then.
        """
        self.world = world
        self.policy = policy
        self.on_progress = on_progress
        self.tally = Tally(policy.name)
        self.lanes = {queue: Lane(world.slots_of(queue)) for queue in sorted(world.queues())}
        self.accounts = {name: Meter(world.limits_of(name), "provider") for name in world.catalog.providers}
        self.models = {name: Meter(world.limits_of(name), "model") for name in world.catalog.models}
        self.events: list[tuple[datetime, int, Callable[..., None], tuple[Any, ...]]] = []
        self.order = 0
        self.now = datetime.min.replace(tzinfo=UTC)
        self.open: dict[UUID, Arrival] = {}
        self.numbers: defaultdict[UUID, int] = defaultdict(int)
        self.is_news = False
        """Whether anything happened that the policy may act on."""
        self.claimed: list[tuple[Key, datetime]] = []
        """Calls that began and that the policy has not heard of."""
        self.begin = self.end = self.now
        self.plan_events(sorted(arrivals, key=lambda each: (each.task.accepted_at, each.task.id)))

    def plan_events(self, arrivals: list[Arrival]) -> None:
        if not arrivals:
            return
        self.begin = self.now = arrivals[0].task.accepted_at
        self.end = arrivals[-1].task.accepted_at
        self.look_at_workers()
        for outage in self.world.outages:
            if outage.subject in self.lanes:
                lane = self.lanes[outage.subject]
                self.at(outage.begin, self.leave, lane)
                self.at(outage.begin + MISSED_AFTER, self.look_at_workers)
                self.at(outage.begin + MISSED_AFTER + UNCLAIMED_FOR, self.desert, lane)
                self.at(outage.begin + AWAY, self.look_at_workers)
                self.at(outage.end, self.come_back, outage.subject, lane)
        for arrival in arrivals:
            self.at(arrival.task.accepted_at, self.arrive, arrival)

    def run(self) -> Tally:
        """Let the time pass until nothing is open, or nothing more happens."""
        horizon = self.end + AFTERWARDS
        events, policy, handled = self.events, self.policy, 0
        while self.open or self.now <= self.end:
            moment = wake = policy.next_moment()
            if events and (moment is None or events[0][0] < moment):
                moment = events[0][0]
            if moment is None or moment > horizon:
                break
            is_event = bool(events) and events[0][0] <= moment and moment != wake
            self.now = moment if is_event else max(moment, self.now + SHORTEST_SLEEP)
            while events and events[0][0] <= self.now:
                _, _, happen, arguments = heapq.heappop(events)
                happen(*arguments)
            if self.is_news or not is_event:
                self.is_news = False
                for decision in policy.act(self.now):
                    self.obey(decision)
            handled += 1
            if self.on_progress and handled % EVENTS_BETWEEN_REPORTS == 0:
                self.on_progress(min(1.0, (self.now - self.begin) / max(self.end - self.begin, CLAIM_AFTER)))
        self.tally.waiting = len(self.open)
        self.tally.ended_at = self.now
        return self.tally

    def at(self, moment: datetime, happen: Callable[..., None], *arguments: object) -> None:
        self.order += 1
        heapq.heappush(self.events, (moment, self.order, happen, arguments))

    def obey(self, decision: Start | GiveUp) -> None:
        if isinstance(decision, GiveUp):
            self.give_up(decision)
            return
        task_id = decision.task.id
        self.numbers[task_id] += 1
        call = Call((task_id, self.numbers[task_id]), self.open[task_id], decision.model)
        lane = self.lanes[decision.model.queue]
        if self.policy.has_workers:
            lane.waiting.append(call)
            self.fill(lane)
        elif decision.model.engine == "cloud":
            self.at(self.now + CLAIM_AFTER, self.claim, call)
        elif lane.left_at or not lane.slots:
            self.at(self.now + CLAIM_AFTER, self.find_nobody, call)
        else:
            lane.waiting.append(call)
            self.fill(lane)

    def give_up(self, decision: GiveUp) -> None:
        task = self.open.pop(decision.task.id).task
        if decision.how == "expired":
            self.tally.expired += 1
            return
        self.tally.fail(decision.why, had_deadline=task.deadline is not None)

    # What happens.

    def arrive(self, arrival: Arrival) -> None:
        self.open[arrival.task.id] = arrival
        self.is_news = True
        self.policy.arrive(arrival, self.now)

    def leave(self, lane: Lane) -> None:
        lane.left_at = lane.left_at or self.now

    def come_back(self, queue: str, lane: Lane) -> None:
        if self.world.outage([queue], self.now, self.now) is None:
            lane.left_at = None
            self.look_at_workers()
            self.fill(lane)

    def desert(self, lane: Lane) -> None:
        """Give back what lies on the queue of workers that are away, as the dispatcher does."""
        if not lane.left_at or not self.policy.has_workers:
            return
        deserted = list(lane.waiting)
        lane.waiting.clear()
        for call in deserted:
            self.finish(call, "cancelled", "no worker was left", None, is_in_lane=False)

    def look_at_workers(self) -> None:
        self.is_news = True
        there = {queue: lane.slots for queue, lane in self.lanes.items() if lane.slots and not lane.left_at}
        away = {
            queue
            for queue, lane in self.lanes.items()
            if lane.slots and lane.left_at and self.now - lane.left_at < AWAY
        }
        self.policy.see_workers(there, away)

    def fill(self, lane: Lane) -> None:
        """Let the workers of a lane take what waits there."""
        while lane.waiting and not lane.left_at and lane.running < lane.slots:
            lane.running += 1
            self.at(self.now + CLAIM_AFTER, self.claim, lane.waiting.popleft())

    def poll(self) -> None:
        """Let the policy read who has begun, as the dispatcher does."""
        for key, at in self.claimed:
            self.policy.claimed(key, at)
        self.claimed.clear()
        self.is_news = True

    def find_nobody(self, call: Call) -> None:
        call.claimed_at = self.now
        self.tally.faulty += 1
        self.finish(call, "failed", "nobody answers there", Lesson("fault", again="same"), is_in_lane=False)

    def claim(self, call: Call) -> None:
        call.claimed_at = self.now
        self.tally.calls[call.model.tier] += 1
        if self.policy.has_workers:
            if not self.claimed:
                self.at(self.now + POLL, self.poll)
            self.claimed.append((call.key, self.now))
        if call.model.engine == "cloud":
            delay_s = NETWORK_S * chance(self.world.seed, "network", *call.key)
            self.at(self.now + timedelta(seconds=delay_s), self.request, call)
        else:
            self.work(call)

    def request(self, call: Call) -> None:
        """Let a provider count a request, and answer it or not."""
        meters = self.meters_of(call.model)
        tokens = call.arrival.prompt_tokens + self.answer_tokens(call)
        down = self.world.outage(self.subjects(call.model), self.now, self.now)
        # A provider that is down counts nothing.
        refusal = None if down else next(filter(None, (m.refusal(tokens, self.now) for m in meters)), None)
        for meter in meters if down is None else ():
            meter.count(self.now)
        after = timedelta(seconds=REFUSAL_S)
        if refusal is not None:
            self.tally.useless += 1
            self.at(self.now + after, self.finish, call, "failed", f"429, {refusal.cause}", refusal)
        elif down is not None:
            self.tally.faulty += 1
            lesson = lesson_of(down, call.model)
            self.at(self.now + after, self.finish, call, "failed", f"outage, {down.cause}", lesson)
        elif self.world.is_faulty(call.model, *call.key):
            self.tally.faulty += 1
            late_s = 2 * FAULT_S * chance(self.world.seed, "silence", *call.key)
            lesson = Lesson("fault", again="same")
            self.at(self.now + timedelta(seconds=late_s), self.finish, call, "failed", "fault", lesson)
        else:
            for meter in meters:
                meter.begin(tokens, self.now)
            self.work(call, meters)

    def work(self, call: Call, meters: Iterable[Meter] = ()) -> None:
        """Let a model answer, unless something comes in between."""
        arrival, model = call.arrival, call.model
        completion = self.answer_tokens(call)
        first_s, all_s = self.world.service_s(model, arrival.prompt_tokens, completion, *call.key)
        end = self.now + timedelta(seconds=all_s)
        cut = self.world.outage([*self.subjects(model), model.queue], self.now, end)
        if cut is None:
            self.at(end, self.answer, call, completion, first_s, meters)
            return
        begin = max(cut.begin, self.now)
        if cut.subject == model.queue:
            # Nobody hears of it before the lease is over; who calls it directly notices at once.
            lost_at = begin + LEASE if self.policy.has_workers else begin
            lesson = None if self.policy.has_workers else Lesson("fault", again="same")
            outcome = "lost" if self.policy.has_workers else "failed"
            self.at(lost_at, self.cut, call, outcome, "its worker went away", lesson, meters)
        else:
            lesson = lesson_of(cut, model)
            self.at(begin, self.cut, call, "failed", f"outage, {cut.cause}", lesson, meters)

    def cut(self, call: Call, outcome: str, why: str, lesson: Lesson | None, meters: Iterable[Meter]) -> None:
        for meter in meters:
            meter.end()
        self.tally.faulty += 1
        self.finish(call, outcome, why, lesson)

    def answer(self, call: Call, completion: int, first_s: float, meters: Iterable[Meter]) -> None:
        """End a task with an answer."""
        for meter in meters:
            meter.end()
        arrival, model = call.arrival, call.model
        claimed_at = call.claimed_at or self.now
        usd = cost_usd(
            model, self.now.date(), prompt_tokens=arrival.prompt_tokens, completion_tokens=completion
        )
        self.tally.pay(arrival.task.profile, usd)
        task = arrival.task
        begin = max(task.accepted_at, task.not_before or task.accepted_at)
        waited_s = max((claimed_at - begin).total_seconds(), 0.0)
        is_late = task.deadline is not None and self.now > task.deadline
        self.tally.succeed(model.name, waited_s, is_late=is_late)
        del self.open[task.id]
        end = Ended(
            outcome="succeeded",
            claimed_at=claimed_at,
            finished_at=self.now,
            tokens=arrival.prompt_tokens + completion,
            cost_usd=usd,
            prompt_tokens=arrival.prompt_tokens,
            completion_tokens=completion,
            first_token_s=first_s,
        )
        self.is_news = True
        self.policy.ended(call.key, end, "", self.now)
        self.free(call)

    def finish(
        self, call: Call, outcome: str, why: str, lesson: Lesson | None, *, is_in_lane: bool = True
    ) -> None:
        """End a call without an answer."""
        today = self.now.date()
        usd = cost_usd(call.model, today, prompt_tokens=0, completion_tokens=0)
        if outcome == "lost":
            # It may have cost something: it counts as reserved.
            self.tally.pay(
                call.arrival.task.profile, worst_cost_usd(call.model, call.arrival.task.needs, today)
            )
            usd = None
        end = Ended(outcome, call.claimed_at, self.now, None, usd, lesson=lesson)
        self.is_news = True
        self.policy.ended(call.key, end, why, self.now)
        if is_in_lane:
            self.free(call)

    def free(self, call: Call) -> None:
        lane = self.lanes[call.model.queue]
        if self.policy.has_workers or call.model.engine != "cloud":
            lane.running -= 1
            self.fill(lane)

    def answer_tokens(self, call: Call) -> int:
        longest = output_tokens(call.model, call.arrival.task.needs.max_tokens)
        return min(call.arrival.completion_tokens, longest)

    def subjects(self, model: Model) -> list[str]:
        return [model.name, model.provider] if model.provider else [model.name]

    def meters_of(self, model: Model) -> list[Meter]:
        of_model = self.models[model.name]
        return [self.accounts[model.provider], of_model] if model.provider else [of_model]


def lesson_of(outage: Outage, model: Model) -> Lesson:
    """Say what a call learns that meets an outage; a limit or an account concerns all models of it."""
    is_of_account = outage.subject == model.provider and outage.cause != "fault"
    return Lesson(outage.cause, "provider" if is_of_account else "model", "same")


def simulate(
    world: World,
    policy: Policy,
    arrivals: Iterable[Arrival],
    on_progress: Callable[[float], None] | None = None,
) -> Tally:
    """Feed arrivals to a policy and add up what becomes of them.

    Args:
        world: what the policy does not decide.
        policy: who decides; it must be new.
        arrivals: in any order.
        on_progress: told the share of the time that has passed, now and then.
    """
    return Simulation(world, policy, arrivals, on_progress).run()
