"""Which calls run next, with a cache that only remembers what was done to it."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.answer import Answer
from workers.engines.base import Request
from workers.engines.llama_prefix import Prefix
from workers.engines.llama_sampler import Sampler
from workers.engines.llama_schedule import READ_TOKENS, Call, Schedule

HEADS = [(), tuple(range(100, 140)), tuple(range(200, 250)), tuple(range(300, 340))]
SMALLEST_SHARED_CELLS = 120
"""Room for one call of the largest size that `calls` makes."""


class RecordingCache:
    """Knows what each sequence holds, as llama.cpp's cache does."""

    def __init__(self, *, forgets_ends: bool = True) -> None:
        self.held: dict[int, list[int]] = {}
        self.forgets_ends = forgets_ends
        self.copies = 0

    def copy(self, source: int, goal: int) -> None:
        assert self.held.get(source), "an empty sequence was copied"
        assert not self.held.get(goal), "a sequence in use was overwritten"
        self.held[goal] = list(self.held[source])
        self.copies += 1

    def forget(self, sequence: int, after: int = 0) -> bool:
        held = self.held.get(sequence, [])
        assert len(held) >= after, "what is to be kept was never there"
        self.held[sequence] = held[:after] if self.forgets_ends else []
        return self.forgets_ends or after == 0


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
        held = cache.held.setdefault(reading.by.sequence, [])
        asked = reading.by.tokens if isinstance(reading.by, Prefix) else reading.by.call.prompt
        assert len(held) == reading.by.length
        assert held[: len(asked)] == list(asked[: len(held)]), "it reads on after the beginning of another"
        held += reading.tokens
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
    cache=st.builds(RecordingCache, forgets_ends=st.booleans()),
    asked=st.lists(calls, max_size=25),
    slots=st.integers(1, 4),
    prefixes=st.integers(0, 3),
    cells=st.one_of(st.none(), st.integers(SMALLEST_SHARED_CELLS, 400)),
    most_tokens=st.integers(8, 64),
)
def test_every_call_ends(
    *,
    cache: RecordingCache,
    asked: list[Call],
    slots: int,
    prefixes: int,
    cells: int | None,
    most_tokens: int,
):
    """Whatever arrives, nothing is left waiting for room that never comes, and no room is lost."""
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


def test_a_beginning_that_a_sequence_holds_already_is_not_copied_into_it():
    """To copy it takes as long as to copy a whole context."""
    cache = RecordingCache()
    schedule = Schedule(cache, slots=2, prefixes=2, shared_cells=None)
    schedule.waiting.extend(a_call(HEADS[1]) for _ in range(10))
    while not schedule.is_idle:
        step(schedule, cache)
    copies_of_one = cache.copies
    for head in (HEADS[0], HEADS[1]):
        schedule.waiting.extend(a_call(head) for _ in range(2))
        while not schedule.is_idle:
            step(schedule, cache)

    assert (copies_of_one, cache.copies) == (2, 4)


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
