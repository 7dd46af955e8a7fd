"""`python -m tests.chaos.producer NAME SEED TASKS SECONDS JOURNAL`: a program that enqueues and waits.

It journals every id that it got back, and what `get()` gave. On its standard input it is told which ids went
with a Redis that lost them; once that is closed, it gets all other results that it has not got, and ends.
"""

import random
import sys
import time
from collections import deque
from pathlib import Path
from threading import Event, Thread
from typing import Any

from celery.exceptions import TimeoutError as NotYetError
from celery.result import AsyncResult

from tests.chaos.journal import Journal
from workers import complete
from workers.errors import RedisUnreachableError

AT_ONCE_S = 20.0
"""How long one `get()` waits; then it is another result's turn."""

GRACE_S = 60.0
"""How long it waits after everything has ended."""

AWAITED = 8
"""Of so many tasks, one is waited for while others are sent; all the others are asked for in the end."""

KINDS: tuple[tuple[int, str, dict[str, Any]], ...] = (
    (480, "", {"profile": "plain"}),
    (100, "", {"profile": "slow"}),
    (100, "", {"profile": "paid"}),
    (60, "", {"profile": "moody"}),
    (60, "overload", {"profile": "moody"}),
    (20, "limited", {"profile": "moody"}),
    (60, "empty", {"profile": "moody", "expect": {"non_empty": True}}),
    (20, "bug", {"profile": "moody"}),
    (20, "refuse", {"profile": "moody"}),
    (40, "nap:2", {"profile": "paid"}),
    (30, "nap:3", {"profile": "plain"}),
    (20, "", {"profile": "plain", "deadline": 5}),
    (20, "", {"profile": "plain", "priority": 9}),
    (20, "", {"profile": "plain", "idempotency_key": "the same"}),
    (20, "revoked nap:1", {"profile": "slow"}),
)
"""How many in a thousand, what the engine is told, and what is asked of the fleet."""

SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "scarce": ("", {"profile": "scarce"}),
    "die": ("die", {"profile": "moody"}),
    "poison": ("poison", {"profile": "moody"}),
}


class Producer:
    """Sends tasks at an even pace, and waits for some of them in another thread."""

    def __init__(self, name: str, seed: int, journal: Journal) -> None:
        self.name = name
        self.chance = random.Random(f"{seed} {name}")
        self.journal = journal
        self.waiting: deque[AsyncResult] = deque()
        self.rest: list[AsyncResult] = []
        self.gone: set[str] = set()
        self.is_over = Event()
        self.waiter = Thread(target=self.wait, daemon=True)

    def run(self, tasks: int, seconds: float, special: dict[int, str]) -> None:
        """Send so many tasks in so many seconds, then wait for all that it got an id for.

        Args:
            special: which tasks, by number, are of which special kind.
        """
        self.waiter.start()
        began = time.monotonic()
        for number in range(tasks):
            time.sleep(max(0.0, began + seconds * number / tasks - time.monotonic()))
            self.send(number, special.get(number))
        self.journal.write("sent_all", producer=self.name)
        self.gone = set(sys.stdin.read().split())
        end = time.monotonic() + GRACE_S
        self.is_over.set()
        self.waiter.join()
        for result in (*self.waiting, *self.rest):
            if result.id not in self.gone and not self.answered(result, max(1.0, end - time.monotonic())):
                self.journal.write("unanswered", task=result.id)

    def send(self, number: int, special: str | None) -> None:
        if special is None:
            ((_, told, arguments),) = self.chance.choices(KINDS, [kind[0] for kind in KINDS])
        else:
            told, arguments = SPECIAL[special]
        is_shared = "idempotency_key" in arguments
        prompt = "shared" if is_shared else f"{self.name}-{number} {told}".strip()
        key = {"idempotency_key": f"shared {self.chance.randrange(50)}"} if is_shared else {}
        before = time.time()
        try:
            result = complete.delay(prompt, **{**arguments, **key}, agent=self.name)
        except RedisUnreachableError:
            self.journal.write("refused", prompt=prompt, took_s=time.time() - before)
            return
        self.journal.write("enqueued", task=result.id, prompt=prompt, began_at=before)
        if "revoked" in told:
            self.revoke(result)
        if number % AWAITED == 0 or special:
            self.waiting.append(result)
        else:
            self.rest.append(result)

    def revoke(self, result: AsyncResult) -> None:
        try:
            result.revoke(terminate=True)
        except Exception as error:  # noqa: BLE001 - kombu raises whatever its transport raises
            self.journal.write("not_revoked", task=result.id, error=type(error).__name__)

    def wait(self) -> None:
        """Wait for one result after the other, until there is nothing more to come."""
        while not self.is_over.is_set():
            if not self.waiting:
                time.sleep(0.05)
                continue
            result = self.waiting.popleft()
            if not self.answered(result, AT_ONCE_S):
                self.waiting.append(result)

    def answered(self, result: AsyncResult, timeout_s: float) -> bool:
        """Ask for a result, and journal what came; False: nothing yet."""
        began = time.monotonic()
        try:
            answer: Any = result.get(timeout=timeout_s)
        except NotYetError:
            return False
        except Exception as error:  # noqa: BLE001 - what a task raises in its caller is a result
            said: dict[str, Any] = {"error": type(error).__name__}
        else:
            said = {"text": answer["choices"][0]["message"]["content"], **answer["fleet"]}
        self.journal.write("answer", task=result.id, took_s=time.monotonic() - began, said=said)
        return True


def specials(tasks: int, seconds: float, chance: random.Random, *, is_poisonous: bool) -> dict[int, str]:
    """Choose which tasks are special: they take time, so there are few, and none at the end."""
    kinds = ["scarce"] * int(seconds / 6) + ["die"] + ["poison"] * is_poisonous
    return dict(zip(chance.sample(range(tasks * 2 // 3), len(kinds)), kinds, strict=True))


if __name__ == "__main__":
    name, seed, tasks, seconds, path = sys.argv[1:6]
    producer = Producer(name, int(seed), Journal(Path(path)))
    chosen = specials(int(tasks), float(seconds), producer.chance, is_poisonous="--poison" in sys.argv)
    producer.run(int(tasks), float(seconds), chosen)
