"""Calls of many threads, made in one go."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from workers.batcher import MOST_AT_ONCE, Batcher


def test_everybody_gets_his_own_result():
    """A result that goes to the wrong thread is somebody else's answer."""
    batcher = Batcher[int, int](lambda items: [item * 10 for item in items])
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(batcher, range(2000)))

    assert found == [n * 10 for n in range(2000)]


def test_what_arrives_while_a_batch_runs_goes_into_the_next():
    """One commit for many tasks is what makes the durable path fast."""
    sizes: list[int] = []
    first_began, go_on = Event(), Event()

    def run(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        first_began.set()
        go_on.wait(5)
        return list(items)

    batcher = Batcher(run)
    with ThreadPoolExecutor(20) as pool:
        pool.submit(batcher, 0)
        first_began.wait(5)
        waiting = [pool.submit(batcher, n) for n in range(1, 11)]
        while len(batcher.waiting) < 10:
            time.sleep(0.001)
        go_on.set()
        [each.result(5) for each in waiting]

    assert sizes == [1, 10]
    assert max(sizes) <= MOST_AT_ONCE


def test_an_error_reaches_everybody_of_its_batch_and_nobody_else():
    """A lost connection must not leave a thread waiting for ever."""

    def run(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ConnectionError("lost")
        return list(items)

    batcher = Batcher(run)
    with pytest.raises(ConnectionError):
        batcher(13)

    assert batcher(7) == 7
