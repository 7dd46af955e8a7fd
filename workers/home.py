"""A fleet's home: the folder of its data, and the embedded services that live in it."""

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from config.settings import Settings
from workers import embedded
from workers.embedded import Server
from workers.errors import EmbeddedServiceError


def make_home(settings: Settings) -> None:
    """Make the home; under root, the user that Postgres runs as must be able to pass."""
    if not settings.home.exists():
        settings.home.mkdir(parents=True)
        settings.home.chmod(0o711 if os.geteuid() == 0 else 0o700)


@contextmanager
def services(settings: Settings, console: Console) -> Generator[None]:
    """Start the embedded services that the settings ask for; at the end stop those that were started here."""
    with ExitStack() as stack:
        if settings.redis_is_embedded:
            server = embedded.start_redis(settings.home, settings.sockets)
            stack.callback(leave, settings, server, console)
        if settings.database_is_embedded:
            server = embedded.start_postgres(settings.home, settings.sockets)
            stack.callback(leave, settings, server, console)
        yield


def revive(settings: Settings) -> list[str]:
    """Start those of the embedded services again that have ended.

    Returns:
        What was done, and what could not be done, in sentences.
    """
    said: list[str] = []
    there = {server.name for server in embedded.running(settings.home, settings.sockets)}
    for name, is_embedded, start in (
        ("redis", settings.redis_is_embedded, embedded.start_redis),
        ("postgres", settings.database_is_embedded, embedded.start_postgres),
    ):
        if is_embedded and name not in there:
            try:
                server = start(settings.home, settings.sockets)
            except EmbeddedServiceError as error:
                said.append(str(error))
            else:
                if not server.was_running:
                    said.append(f"the embedded {name} had ended; it runs again (pid {server.pid})")
    return said


def leave(settings: Settings, server: Server, console: Console) -> None:
    if server.was_running:
        console.print(
            f"The embedded {server.name} ran before and goes on; `fleet down` stops it.", highlight=False
        )
    elif stop(settings, server):
        console.print(f"Stopped the embedded {server.name}.", highlight=False)


def stop(settings: Settings, server: Server) -> bool:
    """Stop an embedded service; False: it was not running."""
    how = {"redis": embedded.stop_redis, "postgres": embedded.stop_postgres}[server.name]
    return how(settings.home, settings.sockets)
