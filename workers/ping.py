"""`fleet ping`: ask the fleet's processes on this host whether they live; for health checks."""

import socket
from urllib.error import URLError
from urllib.request import urlopen

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from config.settings import Settings
from workers.errors import NotThereError
from workers.flower import url as flower_url
from workers.reading import silent

ANSWERS_WITHIN_S = 3.0


def ping(app: Celery, settings: Settings, role: str) -> list[str]:
    """Ask all processes of a role on this host.

    Args:
        app: the fleet's.
        settings: tell where Flower and the dashboard listen.
        role: `dispatcher`, `beat`, `flower`, `dashboard`, or the kind of a worker.

    Returns:
        The names of those that answer.

    Raises:
        NotThereError: none does, one says that it stands still, or Redis is away.
    """
    if role == "flower":
        return [answering_page(f"{flower_url(settings)}/healthcheck")]
    if role == "dashboard":
        return [answering_page(f"{settings.dashboard_url}/login")]
    replies: list[dict[str, dict[str, str]]]
    try:
        replies = app.control.broadcast("ping", reply=True, timeout=ANSWERS_WITHIN_S)
    except (RedisError, OperationalError) as error:
        raise silent("Redis", settings.redis_url, error) from error
    of_role = {
        name: said
        for reply in replies
        for name, said in reply.items()
        if place_of(name) == (role, this_host())
    }
    still = [f"{name}: {said['error']}" for name, said in of_role.items() if "error" in said]
    if still:
        raise NotThereError(". ".join(still), "end it, so that it is started again")
    if not of_role:
        what = f"no {role} on {this_host()} answered within {ANSWERS_WITHIN_S:g} s"
        raise NotThereError(what, "`fleet status` shows who is there")
    return sorted(of_role)


def answering_page(address: str) -> str:
    """Ask a web server of this host for a page.

    Raises:
        NotThereError: it does not give it.
    """
    try:
        with urlopen(address, timeout=ANSWERS_WITHIN_S):  # noqa: S310 - http:// of ours
            return address
    except (URLError, OSError) as error:
        raise NotThereError(f"{address} does not answer ({error})", "is it started?") from error


def place_of(name: str) -> tuple[str, str]:
    """Split the name of a process, `cpu-123@host` or `dispatcher@host:123`, into role and host."""
    role, _, host = name.partition("@")
    return role.partition("-")[0], host.partition(":")[0]


def this_host() -> str:
    return socket.gethostname()
