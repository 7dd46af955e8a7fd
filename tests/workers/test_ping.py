"""Which process a name belongs to, and a dispatcher that stands still."""

from dataclasses import replace

import pytest
from celery import Celery

from config.settings import Settings
from workers.app import make_app
from workers.errors import NotThereError
from workers.ping import ping, place_of
from workers.remote import STANDS_STILL_S, RemoteControl


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cpu-123@box", ("cpu", "box")),
        ("dispatcher@box:123", ("dispatcher", "box")),
        ("celery@box", ("celery", "box")),
    ],
)
def test_a_name_tells_role_and_host(name: str, place: tuple[str, str]):
    assert place_of(name) == place


def test_a_process_that_stands_still_says_so(app: Celery):
    """The thread that answers goes on where the loop that decides hangs."""
    remote = RemoteControl(app, "dispatcher@box:123")
    assert remote.on_ping(None) == {"ok": "pong"}

    remote.came_round_at -= STANDS_STILL_S + 1

    assert remote.on_ping(None) == {"error": "it stands still for 61 s"}


def test_without_redis_it_says_so(settings: Settings):
    """A health check's log is read by somebody who does not know why a container restarts."""
    away = replace(settings, redis_url="redis://127.0.0.1:1/0")

    with pytest.raises(NotThereError, match="Redis"):
        ping(make_app(away), away, "dispatcher")
