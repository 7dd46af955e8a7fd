"""Several commands to Redis in one go, on a connection of one's own.

For a few small commands redis-py's pipeline takes longer than Redis does, and it borrows a connection each
time.
"""

from collections.abc import Sequence
from typing import Any

from redis import Redis

Command = tuple[str | bytes | int, ...]


class Wire:
    """A connection that one thread uses; none of a pool's, which has 100 and would have one less for good."""

    def __init__(self, redis: Redis) -> None:
        """Connect.

        Args:
            redis: says where to.

        Raises:
            RedisError: Redis is away.
        """
        pool = redis.connection_pool
        self.connection: Any = pool.connection_class(**pool.connection_kwargs)
        self.connection.connect()

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands without waiting for their answers.

        Raises:
            RedisError: the connection is lost.
        """
        self.connection.send_packed_command(self.connection.pack_commands(commands))

    def receive(self, count: int) -> list[Any]:
        """Wait for the answers of so many commands.

        Raises:
            RedisError: the connection is lost, or a command was refused. The connection is of no use then.
        """
        return [self.connection.read_response() for _ in range(count)]

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and wait for their answers; as `send` and `receive`."""
        self.send(commands)
        return self.receive(len(commands))

    def fileno(self) -> int:
        """Give what can be waited on together with others; redis-py offers no way of its own."""
        return self.connection._sock.fileno()  # noqa: SLF001

    def close(self) -> None:
        """End the connection, also in the middle of a command."""
        self.connection.disconnect()
