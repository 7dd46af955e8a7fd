"""Ids of tasks: they follow time, so that the ledger's newest rows stand together."""

import time
from uuid import RFC_4122, UUID

from workers.tasks import new_task_id, task_id_of


def test_an_id_tells_its_time():
    before = time.time_ns() // 1_000_000
    made = UUID(new_task_id())
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, RFC_4122)


def test_ids_of_one_millisecond_differ():
    assert len({new_task_id() for _ in range(10_000)}) == 10_000


def test_later_tasks_stand_behind_earlier_ones():
    earlier = new_task_id()
    time.sleep(0.002)
    assert earlier < new_task_id()


def test_an_idempotency_key_has_one_id():
    assert task_id_of("order 7") == task_id_of("order 7") != task_id_of("order 8")
