"""How calls come to the thread that owns a model, with a model that only counts."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import pytest

from workers.engines import engine_thread
from workers.engines.engine_thread import TOGETHER_S, EngineThread


@dataclass
class Counted:
    """A call that ends with its first step, with how many took part in it."""

    done: Future[int] = field(default_factory=Future[int])

    def cancelled(self) -> bool:
        return False


class Counter:
    """Ends all calls that wait in one step."""

    def __init__(self) -> None:
        self.waiting: deque[Counted] = deque()

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def step(self) -> None:
        calls = list(self.waiting)
        self.waiting.clear()
        for call in calls:
            call.done.set_result(len(calls))

    def forget_all(self) -> list[Counted]:
        return []

    def close(self) -> None:
        """Nothing to free."""


def test_calls_that_come_at_once_are_read_at_once(monkeypatch: pytest.MonkeyPatch):
    """A step for the first of eight alone would hold up the other seven for as long as all eight take."""
    monkeypatch.setattr(engine_thread, "TOGETHER_S", 30.0)
    thread = EngineThread("counter", Counter)
    others = [Counted() for _ in range(7)]
    is_visited, has_begun = Event(), Event()

    def one_of_many() -> None:
        with thread.visit():
            is_visited.set()
            has_begun.wait()
            for call in others:
                thread.begin(call)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(one_of_many)
        is_visited.wait()
        with thread.visit():
            thread.begin(first := Counted())
        has_begun.set()
        together = [call.done.result() for call in (first, *others)]
    thread.close()

    assert together == [8] * 8


def test_a_call_does_not_wait_for_ever_for_one_that_is_being_prepared():
    """A prompt of a whole book takes seconds to turn into tokens."""
    thread = EngineThread("counter", Counter)

    with thread.visit():
        with thread.visit():
            thread.begin(call := Counted())
        took_part = call.done.result(timeout=TOGETHER_S + 10)
    thread.close()

    assert took_part == 1
