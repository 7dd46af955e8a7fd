"""Which process a name belongs to, and a dispatcher that stands still."""

import pytest
from celery import Celery

from workers.ping import place_of
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
