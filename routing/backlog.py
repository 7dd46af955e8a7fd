"""The tasks that wait, in the order in which they get their chance."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from routing.plan import Plan, Wait
from routing.task import Task

NO_DEADLINE = datetime.max.replace(tzinfo=UTC)

Rank = tuple[int, datetime, datetime, UUID]
"""(priority, deadline, accepted at, id): the smaller one goes first."""


def rank(task: Task) -> Rank:
    """Order tasks by priority, then deadline, then arrival; the id makes the order total."""
    return (task.priority, task.deadline or NO_DEADLINE, task.accepted_at, task.id)


@dataclass
class Backlog:
    """Held tasks, grouped by kind: tasks of a kind get the same plan at the same moment.

    So a plan is made for the first task of each kind only, and one kind whose models are busy does not
    stand in the way of another whose model is free.
    """

    tasks: dict[UUID, Task] = field(default_factory=dict[UUID, Task])
    by_kind: dict[tuple[object, ...], list[Rank]] = field(
        default_factory=dict[tuple[object, ...], list[Rank]]
    )
    patience_ends: list[tuple[datetime, UUID]] = field(default_factory=list[tuple[datetime, UUID]])
    not_before: list[tuple[datetime, UUID]] = field(default_factory=list[tuple[datetime, UUID]])
    deadlines: list[tuple[datetime, UUID]] = field(default_factory=list[tuple[datetime, UUID]])
    turns: dict[str, int] = field(default_factory=dict[str, int])
    """The last turn that each agent had."""
    turn: int = 0
    """The turn that is being given out. Who did not come, or could not go, does not save turns up."""

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, task: Task) -> None:
        """Let a task wait; one that is there already is replaced."""
        self.tasks[task.id] = task
        if task.deadline:
            heapq.heappush(self.deadlines, (task.deadline, task.id))
        heapq.heappush(self.patience_ends, (task.patient_until, task.id))
        if task.not_before:
            heapq.heappush(self.not_before, (task.not_before, task.id))
        else:
            self.line_up(task)

    def lose_patience(self, now: datetime) -> None:
        """Line tasks up once more, among those that wait no longer for a cheaper model.

        They may go where the others of their kind, who came later, still wait.
        """
        while self.patience_ends and self.patience_ends[0][0] <= now:
            _, task_id = heapq.heappop(self.patience_ends)
            task = self.tasks.get(task_id)
            if task and task.patient_until <= now and (task.not_before or now) <= now:
                self.line_up(task, is_patient=False)

    def discard(self, task_id: UUID) -> None:
        """Forget a task, if it is there."""
        self.tasks.pop(task_id, None)

    def expired(self, now: datetime) -> Iterator[Task]:
        """Take out the tasks whose deadline has passed."""
        while self.deadlines and self.deadlines[0][0] <= now:
            _, task_id = heapq.heappop(self.deadlines)
            task = self.tasks.get(task_id)
            if task and task.deadline and task.deadline <= now:
                del self.tasks[task_id]
                yield task

    def decide(self, now: datetime, decide: Callable[[Task], Plan]) -> Iterator[tuple[Task, Plan]]:
        """Take out each task that need not wait, with its plan.

        They go in order of priority; within it agents take turns, and each agent's tasks go in order of
        rank: one agent's ten thousand tasks do not hold up another's one.

        Args:
            now: aware, UTC; tasks whose time has not come are left alone.
            decide: makes the plan; called again for the next task of a kind until it says `Wait`.
        """
        self.wake(now)
        self.lose_patience(now)
        order = [self.place(task) for kind in list(self.by_kind) if (task := self.head(kind))]
        heapq.heapify(order)
        decided: set[UUID] = set()
        # Decisions only fill the fleet up: what waits now, waits for the same reason until this ends.
        waiting: set[tuple[object, ...]] = set()
        while order:
            place = heapq.heappop(order)
            task_id = place[2][3]
            if task_id in decided:
                continue  # It heads two lines: those of its kind, and those of its kind without patience.
            task = self.tasks[task_id]
            if self.place(task) != place:
                heapq.heappush(order, self.place(task))  # Its agent has had a turn in the meantime.
                continue
            decided.add(task_id)
            alike = (*task.kind[1:], task.patient_until <= now)
            if alike in waiting:
                continue
            decision = decide(task)
            if isinstance(decision, Wait):
                waiting.add(alike)
                continue
            del self.tasks[task_id]
            self.turn = self.turns[task.agent] = place[1]
            yield task, decision
            for is_patient in (True, False):
                following = self.head((*task.kind, is_patient))
                if following is not None:
                    heapq.heappush(order, self.place(following))

    def next_moment(self) -> datetime | None:
        """Tell when the clock alone changes something: a task comes due or expires."""
        heaps = (self.not_before, self.deadlines, self.patience_ends)
        moments = [heap[0][0] for heap in heaps if heap]
        return min(moments, default=None)

    def place(self, task: Task) -> tuple[int, int, Rank]:
        """Tell where a task stands now: its priority, the turn of its agent, its rank."""
        return (task.priority, max(self.turns.get(task.agent, 0) + 1, self.turn), rank(task))

    def wake(self, now: datetime) -> None:
        while self.not_before and self.not_before[0][0] <= now:
            _, task_id = heapq.heappop(self.not_before)
            task = self.tasks.get(task_id)
            if task and task.not_before and task.not_before <= now:
                self.line_up(task, is_patient=now < task.patient_until)

    def line_up(self, task: Task, *, is_patient: bool = True) -> None:
        heapq.heappush(self.by_kind.setdefault((*task.kind, is_patient), []), rank(task))

    def head(self, kind: tuple[object, ...]) -> Task | None:
        """Find the first task of a kind that still waits; forget the kind if there is none."""
        ranks = self.by_kind.get(kind, [])
        while ranks:
            task = self.tasks.get(ranks[0][3])
            if task is not None and rank(task) == ranks[0] and task.kind == kind[:-1]:
                return task
            heapq.heappop(ranks)
        self.by_kind.pop(kind, None)
        return None
