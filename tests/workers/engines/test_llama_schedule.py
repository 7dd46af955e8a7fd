"""Which calls run next, with a cache that only remembers what was done to it."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.answer import Answer
from workers.engines.base import Request
from workers.engines.llama_sampler import Sampler
from workers.engines.llama_schedule import READ_TOKENS, Call, Schedule

HEADS = [(), tuple(range(100, 140)), tuple(range(200, 250)), tuple(range(300, 340))]
SMALLEST_SHARED_CELLS = 120
"""Room for one call of the largest size that `calls` makes."""


class RecordingCache:
    """Knows which sequences hold something, as llama.cpp's cache does."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}

    def copy(self, source: int, goal: int) -> None:
        assert self.held.get(source), "an empty sequence was copied"
        assert not self.held.get(goal), "a sequence in use was overwritten"
        self.held[goal] = self.held[source]

    def forget(self, sequence: int) -> None:
        self.held[sequence] = 0


def a_call(head: tuple[int, ...] = (), more: int = 10, max_tokens: int = 5) -> Call:
    request = Request([], max_tokens=max_tokens, temperature=0.0)
    return Call(
        request,
        [*head, *range(more)],
        head,
        on_token=lambda _piece: None,
        cancelled=lambda: False,
        sampler=Sampler(request),
        answer=Answer(),
        asked_at=0.0,
    )


def step(schedule: Schedule, cache: RecordingCache, most_tokens: int = 512) -> list[Call]:
    """Do what the engine does in a step, without a model; the calls that were answered to their end."""
    schedule.admit()
    batches = schedule.next_batches(most_tokens)
    assert sum(len(reading.tokens) for reading in chain(*batches)) <= most_tokens + len(schedule.running)
    assert all(len({len(reading.tokens) for reading in batch}) == 1 for batch in batches)
    readings = list(chain(*batches))
    answering = [run for reading in readings if (run := reading.answers)]
    for reading in readings:
        assert cache.held.get(reading.by.sequence, 0) == reading.by.length
        cache.held[reading.by.sequence] = reading.by.length + len(reading.tokens)
    schedule.finish_readings(readings)
    ended: list[Call] = []
    for run in answering:
        run.tokens += 1
        run.unread = [0]
        if run.tokens >= run.call.request.max_tokens:
            schedule.leave(run)
            ended.append(run.call)
    return ended


calls = st.builds(
    a_call,
    st.sampled_from(HEADS),
    st.integers(min_value=1, max_value=40),
    st.integers(min_value=1, max_value=20),
)


@given(
    st.lists(calls, max_size=25),
    st.integers(1, 4),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(SMALLEST_SHARED_CELLS, 400)),
    st.integers(8, 64),
)
def test_every_call_ends(asked: list[Call], slots: int, prefixes: int, cells: int | None, most_tokens: int):
    """Whatever arrives, nothing is left waiting for room that never comes, and no room is lost."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=slots, prefixes=prefixes, shared_cells=cells)
    schedule.waiting.extend(asked)
    ended: list[Call] = []

    for _ in range(2000):
        ended += step(schedule, cache, most_tokens)
        assert len(schedule.running) <= slots
        assert schedule._free_cells >= 0
        if schedule.is_idle:
            break

    assert {id(call) for call in ended} == {id(call) for call in asked}
    schedule.forget_all()
    assert schedule._free_cells == (cells or 0)
    assert sorted(schedule._free_sequences) == list(range(slots))
    assert not any(cache.held.values())


def test_calls_start_in_the_order_in_which_they_came():
    """A task that came first must not wait for those that came after it."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=1, prefixes=0, shared_cells=None)
    asked = [a_call() for _ in range(3)]
    schedule.waiting.extend(asked)
    ended: list[Call] = []
    while not schedule.is_idle:
        ended += step(schedule, cache)

    assert ended == asked


def test_the_first_of_those_that_share_a_prefix_pays_for_it():
    """Cached tokens are tokens that were not computed; somebody had them computed first."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=4, prefixes=1, shared_cells=None)
    schedule.waiting.extend(a_call(HEADS[1]) for _ in range(3))
    step(schedule, cache)
    step(schedule, cache)

    assert [run.cached_tokens for run in schedule.running] == [0, 40, 40]


def test_a_long_prompt_does_not_hold_up_an_answer():
    """Whoever watches an answer being written must not see it stop because another has a long prompt."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=2, prefixes=0, shared_cells=None)
    schedule.waiting.append(a_call(max_tokens=50))
    step(schedule, cache)
    schedule.waiting.append(a_call(more=400))
    schedule.admit()

    batches = schedule.next_batches(512)

    assert [[len(reading.tokens) for reading in batch] for batch in batches] == [[1], [READ_TOKENS]]


def test_neighbours_are_read_together():
    """A divided cache reads sequences in one go only where their numbers follow each other."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=4, prefixes=1, shared_cells=None)
    schedule.waiting.extend(a_call(max_tokens=number + 1) for number in range(6))
    while not schedule.is_idle:
        step(schedule, cache)
        for batch in schedule.next_batches(512):
            sequences = [reading.by.sequence for reading in batch]
            assert sequences == sorted(sequences)


@pytest.mark.parametrize("cells", [None, 200])
def test_what_ran_is_told_when_all_is_forgotten(cells: int | None):
    """After a step that failed, the calls in it fail, and the next ones start with a clean cache."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=2, prefixes=1, shared_cells=cells)
    asked = [a_call(HEADS[1]), a_call(HEADS[1]), a_call()]
    schedule.waiting.extend(asked)
    step(schedule, cache)
    step(schedule, cache)

    told = schedule.forget_all()

    assert {id(call) for call in (*told, *schedule.waiting)} == {id(call) for call in asked}
    assert not any(cache.held.values())
