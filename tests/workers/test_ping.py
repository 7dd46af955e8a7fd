"""Which process a name belongs to, and a dispatcher that stands still."""

import pytest
from celery import Celery

from config.catalog import Catalog
from config.settings import Settings
from workers.dispatcher import STANDS_STILL_S, Dispatcher
from workers.ping import place_of


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


def test_a_dispatcher_that_stands_still_says_so(settings: Settings, catalog: Catalog, app: Celery):
    """The thread that answers goes on where the loop that decides hangs."""
    dispatcher = Dispatcher(settings, catalog, app)
    assert dispatcher.on_ping(None) == {"ok": "pong"}

    dispatcher.came_round_at -= STANDS_STILL_S + 1

    assert dispatcher.on_ping(None) == {"error": "it stands still for 61 s"}
