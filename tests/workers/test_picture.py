"""What the picture says of workers, on a real Postgres."""

from ledger import workers
from ledger.connect import Connection
from routing.vitals import AWAY
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
