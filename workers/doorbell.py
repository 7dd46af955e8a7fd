"""What the brain sleeps on: it wakes when a message arrives, when Postgres has news, or when called."""

import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from psycopg import sql
from redis import Redis

from ledger.attempts import CHANNEL
from ledger.connect import Connection


class Doorbell:
    """Waits on several Redis lists and on Postgres notifications at once, without taking anything.

    `BLMOVE list list RIGHT RIGHT` blocks until the list has an element and puts it back where it was.
    """

    def __init__(self, redis: Redis, lists: Sequence[str], listener: Connection) -> None:
        """Start to listen.

        Args:
            redis: lends one connection for each list.
            lists: to wait on.
            listener: a connection of its own, in autocommit mode.
        """
        self.listener = listener
        self.pool = redis.connection_pool
        self.selector = selectors.DefaultSelector()
        self.armed: dict[str, Any] = {}
        self.lists = lists
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

    def wait(self, timeout_s: float) -> list[str]:
        """Sleep until something happens, `timeout_s` at most.

        Returns:
            The payloads of the notifications that came, without repeats.
        """
        for name in self.lists:
            if name not in self.armed:
                self.arm(name)
        for key, _ in self.selector.select(timeout_s):
            if key.data == "bell":
                with suppress(BlockingIOError):
                    self.bell.recv(4096)
            elif key.data != "ledger":
                self.disarm(key.data)
        return list(dict.fromkeys(notice.payload for notice in self.listener.notifies(timeout=0)))

    def close(self) -> None:
        """Stop to listen; the lists are as they were."""
        for connection in self.armed.values():
            self.selector.unregister(socket_of(connection))
            connection.disconnect()
            self.pool.release(connection)
        self.armed.clear()
        self.selector.close()
        self.button.close()
        self.bell.close()

    def arm(self, name: str) -> None:
        connection = self.pool.get_connection()
        connection.send_command("BLMOVE", name, name, "RIGHT", "RIGHT", 0)
        self.selector.register(socket_of(connection), selectors.EVENT_READ, name)
        self.armed[name] = connection

    def disarm(self, name: str) -> None:
        connection = self.armed.pop(name)
        self.selector.unregister(socket_of(connection))
        try:
            connection.read_response()
        finally:
            self.pool.release(connection)


def socket_of(connection: Any) -> socket.socket:  # noqa: ANN401 - redis-py's, of several kinds
    """Get at what can be waited on together with others; redis-py offers no way of its own."""
    return connection._sock  # noqa: SLF001
