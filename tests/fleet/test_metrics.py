"""What `/metrics` says of a fleet that has worked."""

from prometheus_client.parser import text_string_to_metric_families

from config.settings import Settings
from dashboard.metrics import exposition
from ledger.connect import connect
from tests.fleet.conftest import wait_for


def test_a_fleet_at_work_has_figures(app: object, fleet: Settings):
    """Ticks are known to the dispatcher alone, and have to get into the ledger."""
    from workers.tasks import complete

    complete.delay("count me", profile="social").get(timeout=60)
    wait_for(fleet, "SELECT ticks > 0 AND tick_s > 0 FROM leadership", value=True)

    text, _ = exposition(lambda: connect(fleet.database_url, name="test"))
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }

    assert found["fleet_brain_leading"] == 1
    assert 0 < found["fleet_brain_tick_seconds_sum"] < found["fleet_brain_tick_seconds_count"]
    assert found["fleet_attempts_total"] > 0
    assert found["fleet_worker_slots"] > 0
