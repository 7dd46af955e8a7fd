"""The queue `dispatch`, read without taking anything from it.

A message stays in Redis until its row is committed; then exactly what was read is removed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any

from redis import Redis

from workers.messages import lists_of
from workers.wire import Command

MOST_AT_ONCE = 500

DEAD_LETTERS_KEPT = 10_000

LARGEST_LETTER = 100_000
"""Bytes of a message that are kept when it cannot be read."""

REMOVE_WHAT_WAS_READ = """
local there = redis.call('LRANGE', KEYS[1], -#ARGV, -1)
local same = 0
for i = 1, #there do
    if redis.sha1hex(there[#there + 1 - i]) ~= ARGV[i] then
        break
    end
    same = i
end
if same > 0 then
    redis.call('LTRIM', KEYS[1], 0, -same - 1)
end
return same
"""
"""Compares before it trims: a reader that was paused removes nothing that it has not read."""


@dataclass(frozen=True)
class Batch:
    """Messages of one list, oldest first, still in Redis."""

    list_name: str
    messages: tuple[bytes, ...]


def reading(name: str) -> Command:
    """Write the command that reads the oldest messages of a list, `MOST_AT_ONCE` at most."""
    return "LRANGE", name, -MOST_AT_ONCE, -1


def batch(name: str, found: Sequence[bytes]) -> Batch:
    """Read what that command answered."""
    return Batch(name, tuple(reversed(found)))


def removal(of: Batch) -> Command:
    """Write the command that removes what was read; less, where somebody else removed some already."""
    marks = [sha1(message, usedforsecurity=False).hexdigest() for message in of.messages]
    return "EVAL", REMOVE_WHAT_WAS_READ, 1, of.list_name, *marks


class Inbox:
    """The messages of a queue that nobody has accepted yet."""

    def __init__(self, redis: Redis, queue: str) -> None:
        self.redis = redis
        self.lists = lists_of(queue)
        self.dead_letters = f"{queue}.dead"

    def bury(self, message: bytes, why: str) -> None:
        """Keep a message that cannot be read, or its beginning, with the reason, where it blocks nobody."""
        letter: dict[str, Any] = {
            "why": why,
            "at": datetime.now(UTC).isoformat(),
            "message": message[:LARGEST_LETTER].decode(errors="backslashreplace"),
        }
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.lpush(self.dead_letters, json.dumps(letter))
            pipeline.ltrim(self.dead_letters, 0, DEAD_LETTERS_KEPT - 1)
            pipeline.execute()
