"""The order in which waiting tasks get their chance."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from routing.backlog import Backlog, rank
from routing.lessons import Tried
from routing.plan import Plan, Refuse, Run, Wait
from routing.task import Task
from tests.routing.made import NOW, SECOND, a_model, a_task

MODEL = a_model("m")
YES = Run(MODEL, ())


def backlog_of(*tasks: Task) -> Backlog:
    backlog = Backlog()
    for task in tasks:
        backlog.add(task)
    return backlog


def order(backlog: Backlog, decide: Plan = YES) -> list[Task]:
    return [task for task, _ in backlog.decide(NOW, lambda _: decide)]


def test_tasks_go_by_priority_then_deadline_then_arrival():
    """The order that DESIGN.md promises."""
    late = a_task(accepted_at=NOW + SECOND)
    early = a_task(accepted_at=NOW)
    urgent = a_task(accepted_at=NOW + 2 * SECOND, deadline=NOW + 60 * SECOND)
    minor = a_task(accepted_at=NOW - 60 * SECOND, priority=9)

    assert order(backlog_of(minor, late, early, urgent)) == [urgent, early, late, minor]


def test_agents_take_turns():
    """One agent's ten thousand tasks must not starve another's one."""
    flood = [a_task(agent="flood", accepted_at=NOW - SECOND) for _ in range(50)]
    late = [a_task(agent="late", profile=profile) for profile in ("a", "b", "c")]

    went = [task.agent for task in order(backlog_of(*flood, *late))]

    assert went[:6] == ["flood", "late", "flood", "late", "flood", "late"]
    assert went.count("flood") == 50


def test_an_agent_that_could_not_go_does_not_save_turns_up():
    """Its model was away for an hour; the others must not stand back for as many tasks as they ran."""
    backlog = backlog_of(*(a_task(agent="busy") for _ in range(100)))
    order(backlog)
    for agent in ("busy", "back"):
        for _ in range(5):
            backlog.add(a_task(agent=agent))

    went = [task.agent for task in order(backlog)]

    assert all(abs(went[:n].count("back") - went[:n].count("busy")) <= 2 for n in range(len(went)))


def test_priority_goes_before_turns():
    """Whoever marks a task as minor lets the others pass."""
    minor = [a_task(agent="a", priority=9, accepted_at=NOW - SECOND) for _ in range(2)]
    urgent = [a_task(agent="b") for _ in range(3)]

    assert order(backlog_of(*minor, *urgent)) == [*sorted(urgent, key=rank), *sorted(minor, key=rank)]


def test_a_busy_kind_does_not_stand_in_the_way_of_another():
    """10,000 tasks for a model that is asleep must not hold up one for a model that is free."""
    asleep = [a_task(profile="asleep", accepted_at=NOW - SECOND) for _ in range(3)]
    awake = a_task(profile="awake")
    asked: list[Task] = []

    def decide(task: Task) -> Plan:
        asked.append(task)
        return Wait(()) if task.profile == "asleep" else YES

    backlog = backlog_of(*asleep, awake)

    assert [task for task, _ in backlog.decide(NOW, decide)] == [awake]
    assert len(asked) == 2, "one plan for the kind that waits, one for the other"
    assert len(backlog) == 3


def test_a_task_is_left_alone_until_its_time():
    """countdown and eta wait here, not in a worker's memory."""
    backlog = backlog_of(a_task(not_before=NOW + 5 * SECOND))

    assert order(backlog) == []
    assert backlog.next_moment() == NOW + 5 * SECOND
    assert len(list(backlog.decide(NOW + 5 * SECOND, lambda _: YES))) == 1


def test_a_task_expires_wherever_it_stands():
    """Its deadline passes, whether it is first in line, behind others, or not yet due."""
    first = a_task(deadline=NOW + SECOND)
    not_due = a_task(deadline=NOW + SECOND, not_before=NOW + 60 * SECOND)
    other = a_task()
    backlog = backlog_of(first, not_due, other)

    assert list(backlog.expired(NOW)) == []
    assert {task.id for task in backlog.expired(NOW + SECOND)} == {first.id, not_due.id}
    assert order(backlog) == [other]


def test_a_discarded_task_never_comes_up():
    """Cancelled while it waited."""
    task = a_task(not_before=NOW + SECOND, deadline=NOW + 2 * SECOND)
    backlog = backlog_of(task)

    backlog.discard(task.id)

    assert list(backlog.decide(NOW + SECOND, lambda _: YES)) == []
    assert list(backlog.expired(NOW + 2 * SECOND)) == []


def test_a_task_that_comes_back_is_taken_once():
    """A failed attempt sends its task back with what was learned."""
    task = a_task()
    backlog = backlog_of(task)
    again = a_task(id=task.id, tried=(Tried("m", "failed", None),))

    backlog.add(again)

    assert order(backlog) == [again]
    assert order(backlog) == []


moments = st.integers(0, 100).map(lambda s: NOW + timedelta(seconds=s))
waiting = st.lists(
    st.builds(
        a_task,
        profile=st.sampled_from(["a", "b", "c"]),
        priority=st.integers(0, 9),
        deadline=st.none() | moments,
        not_before=st.none() | moments,
        accepted_at=moments,
    ),
    max_size=40,
)


@given(waiting, moments)
def test_whoever_may_go_goes_once_and_in_order(tasks: list[Task], now: object):
    """No starvation, no double, no task before its time."""
    assert isinstance(now, type(NOW))
    backlog = backlog_of(*tasks)
    expired = {task.id for task in backlog.expired(now)}

    decided = [task for task, _ in backlog.decide(now, lambda _: YES)]

    due = [t for t in tasks if t.id not in expired and (t.not_before is None or t.not_before <= now)]
    assert decided == sorted(due, key=rank)
    assert len(backlog) == len(tasks) - len(expired) - len(due)


@given(waiting)
def test_refusals_leave_the_backlog_too(tasks: list[Task]):
    """A task that can never run must not be planned for ever."""
    backlog = backlog_of(*tasks)
    later = NOW + timedelta(days=1)

    refused = list(backlog.decide(later, lambda _: Refuse(())))

    assert len(refused) == len(tasks)
    assert len(backlog) == 0
