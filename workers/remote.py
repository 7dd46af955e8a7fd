"""Celery's remote control for the processes that are no Celery workers: they hear it, and answer `ping`."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from threading import Event, Thread
from typing import Any

import structlog
from celery import Celery

AGAIN_S = 1.0

STANDS_STILL_S = 60.0
"""A process whose loop has not come round for so long answers `ping` with an error."""

Handler = Callable[..., dict[str, str]]

log = structlog.get_logger()


class RemoteControl:
    """A thread that hears commands, and answers `ping` for the loop of its process rather than for itself."""

    def __init__(self, app: Celery, name: str, handlers: Mapping[str, Handler] | None = None) -> None:
        """Begin to listen.

        Args:
            app: the fleet's.
            name: that of the process, as `role@host:pid`.
            handlers: of commands besides `ping`.
        """
        self.app = app
        self.name = name
        self.handlers = {"ping": self.on_ping, **(handlers or {})}
        self.came_round_at = time.monotonic()
        """When the loop of the process last came round; it says so itself."""
        self.closing = Event()

    def start(self) -> "RemoteControl":
        Thread(target=self.listen, name="remote-control", daemon=True).start()
        return self

    def came_round(self) -> None:
        """Note that the loop goes on."""
        self.came_round_at = time.monotonic()

    def on_ping(self, _state: object, **_: object) -> dict[str, str]:
        still_s = time.monotonic() - self.came_round_at
        if still_s > STANDS_STILL_S:
            return {"error": f"it stands still for {still_s:.0f} s"}
        return {"ok": "pong"}

    def listen(self) -> None:
        """Go on until `close`; a lost Redis is waited for."""
        while not self.closing.is_set():
            try:
                with self.app.connection_for_read() as connection:
                    node = self.app.control.mailbox.Node(
                        self.name, handlers=self.handlers, channel=connection.default_channel
                    )
                    node.listen(callback=partial(on_control, node))
                    while not self.closing.is_set():
                        try:
                            connection.drain_events(timeout=1)
                        except TimeoutError:
                            continue
            except Exception as error:  # noqa: BLE001 - kombu raises whatever its transport raises
                log.warning("remote_control_lost", error=type(error).__name__)
                self.closing.wait(AGAIN_S)

    def close(self) -> None:
        """End, within a second."""
        self.closing.set()


def on_control(node: Any, body: dict[str, Any], message: object) -> None:  # noqa: ANN401 - kombu has no types
    """Handle a command, if it is one for this process."""
    if body.get("method") in node.handlers:
        node.handle_message(body, message)
