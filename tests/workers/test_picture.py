"""What the picture says of workers, on a real Postgres."""

from threading import Event

import pytest

from ledger import workers
from ledger.attempts import CHANNEL
from ledger.connect import Connection, connect
from routing.vitals import AWAY
from workers.alive import Alive
from workers.picture import STALE_S, read_away, read_slots


def seen(db: Connection, name: str, queue: str, ago_s: float) -> None:
    workers.seen(db, name=name, host="test", pid=1, slots={queue: 2})
    db.execute(
        "UPDATE workers SET seen_at = seen_at - make_interval(secs => %(ago)s) WHERE name = %(name)s",
        {"ago": ago_s, "name": name},
    )


def test_a_worker_that_went_silent_is_expected_back_and_one_that_left_is_not(db: Connection):
    """A Mac that sleeps comes back; one that was switched off with care was meant to go."""
    seen(db, "there", "cpu.there", 0)
    seen(db, "asleep", "mlx.asleep", STALE_S * 2)
    seen(db, "another", "cpu.there", STALE_S * 2)
    seen(db, "long ago", "mlx.forgotten", AWAY.total_seconds() + 60)
    seen(db, "gone", "mlx.gone", STALE_S * 2)
    workers.left(db, "gone")

    slots = read_slots(db)

    assert slots == {"cpu.there": 2}
    assert read_away(db, slots) == {"mlx.asleep"}


@pytest.mark.parametrize(("silent_s", "news"), [(STALE_S / 2, []), (STALE_S * 2, [""])])
def test_a_worker_that_was_silent_for_long_says_that_it_is_back(
    db: Connection, db_url: str, silent_s: float, news: list[str]
):
    """A laptop that wakes up would look for its own slots only at the dispatcher's next turn."""
    alive = Alive(db_url, "w", {"cpu.there": 2}, {})
    alive.close()
    alive.leaving = Event()
    seen(db, "w", "cpu.there", silent_s)
    alive.is_shown = True
    with connect(db_url, name="test") as listener:
        listener.execute(f"LISTEN {CHANNEL}")

        alive.show(db)

        assert [notice.payload for notice in listener.notifies(timeout=0.2)] == news
    assert read_slots(db) == {"cpu.there": 2}
