"""What the brain sleeps on: it wakes when messages arrive, when Postgres has news, or when called."""

import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from psycopg import sql
from redis import Redis

from ledger.attempts import CHANNEL
from ledger.connect import Connection
from workers.inbox import Batch, Inbox, batch, reading
from workers.wire import Wire


class News(NamedTuple):
    """What woke the brain."""

    hints: Sequence[str]
    """The payloads of notifications from Postgres, without repeats."""
    batches: Sequence[Batch]
    """The messages that have arrived; they are still in Redis."""

    @property
    def is_quiet(self) -> bool:
        return not (self.hints or self.batches)


class Doorbell:
    """Waits on the lists of the inbox and on Postgres notifications at once, without taking anything.

    `BLMOVE list list RIGHT RIGHT` blocks until the list has an element and puts it back where it was. The
    command that reads the list is sent along, and Redis answers both at once: who wakes has the messages.
    """

    def __init__(self, redis: Redis, inbox: Inbox, listener: Connection) -> None:
        """Start to listen.

        Args:
            redis: says where to; each list gets a connection of its own.
            inbox: to wait on.
            listener: a connection of its own, in autocommit mode.
        """
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.inbox = inbox
        self.wires = {name: Wire(redis) for name in inbox.lists}
        for name, wire in self.wires.items():
            self.selector.register(wire, selectors.EVENT_READ, name)
        self.armed: set[str] = set()
        self.button, self.bell = socket.socketpair()
        self.bell.setblocking(False)
        self.button.setblocking(False)
        self.selector.register(self.bell, selectors.EVENT_READ, "bell")
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        self.selector.register(listener.fileno(), selectors.EVENT_READ, "ledger")

    def ring(self) -> None:
        """Wake the sleeper; from any thread or signal handler."""
        with suppress(BlockingIOError):
            self.button.send(b"!")

    def wait(self, timeout_s: float) -> News:
        """Sleep until something happens, `timeout_s` at most."""
        rung: dict[str, Batch] = {}
        for name in self.inbox.lists:
            if name not in self.armed:
                self.arm(name)
        for key, _ in self.selector.select(timeout_s):
            if key.data == "bell":
                with suppress(BlockingIOError):
                    self.bell.recv(4096)
            elif key.data != "ledger":
                found = self.read(key.data)
                if found.messages:  # nobody has emptied the list in between
                    rung[key.data] = found
        hints = dict.fromkeys(notice.payload for notice in self.listener.notifies(timeout=0))
        return News(list(hints), [rung[name] for name in self.inbox.lists if name in rung])

    def close(self) -> None:
        """Stop to listen; the lists are as they were."""
        self.selector.close()
        for wire in self.wires.values():
            wire.close()
        self.button.close()
        self.bell.close()

    def arm(self, name: str) -> None:
        self.wires[name].send([("BLMOVE", name, name, "RIGHT", "RIGHT", 0), reading(name)])
        self.armed.add(name)

    def read(self, name: str) -> Batch:
        self.armed.discard(name)
        _, found = self.wires[name].receive(2)
        return batch(name, found)
