"""What Prometheus reads of the fleet, and the alerts and charts that are made of it."""

import json
import re
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import dashboard
from dashboard.metrics import exposition
from ledger import attempts, leadership, rollup, tasks, unfinished, workers
from ledger.connect import Connection
from tests.ledger.made import a_finish, a_placement, a_task

MONITORING = Path(dashboard.__file__).parent / "monitoring"
ALERTS = MONITORING / "alerts.yml"
GRAFANA = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))

METRIC = re.compile(r"\bfleet_\w+")

HEARTBEAT = """
    WITH entry AS (
        INSERT INTO schedules (name, rhythm, decided_until)
        VALUES ('pulse', 'every 15m', now())
        RETURNING name
    )
    INSERT INTO firings (name, scheduled_at, worker, task_id, decided_at, outcome, finished_at)
    SELECT name, now(), %(worker)s, gen_random_uuid(), now(), 'succeeded', now() - interval '1 min'
      FROM entry
"""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def busy(db: Connection, epoch: int) -> Connection:
    """Fill a ledger with one of everything: a worker, a task of each state, a loss, an unknown price."""
    workers.seen(
        db, name="paid@test", host="test", pid=1, slots={"paid.moonshot": 4}, memory_bytes=179_000_000
    )
    leadership.renew(db, epoch, 60, ticks=10, tick_s=0.5)
    new = [a_task() for _ in range(6)]
    tasks.accept(db, new, epoch=epoch)
    placed = [
        a_placement(task.id, model="kimi", tier="paid", queue="paid.moonshot", reserved_usd=Decimal("0.5"))
        for task in new[:5]
    ]
    tasks.queue(db, placed, epoch=epoch)
    keys = [(task.id, 1) for task in new]
    attempts.claim(db, keys[:3], worker="paid@test", lease_s=60)
    attempts.claim(db, keys[3:4], worker="paid@test", lease_s=-1)
    attempts.finish(db, [a_finish(new[0].id, cost_usd=Decimal("0.25")), a_finish(new[1].id, cost_usd=None)])
    unfinished.lose(db, lambda _: None, epoch=epoch)
    db.execute(HEARTBEAT, {"worker": "paid@test"})
    return db


def read(db: Connection) -> Samples:
    @contextmanager
    def reading() -> Generator[Connection]:
        yield db

    text, _ = exposition(reading)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_every_figure_is_that_of_the_ledger(busy: Connection):
    """An alert that looks at a wrong number is worse than none."""
    rollup.fold(busy)
    found = read(busy)
    kimi = {"model": "kimi", "tier": "paid"}

    assert value(found, "fleet_tasks", state="held") == 2, "one that never ran, one that was lost"
    assert value(found, "fleet_tasks", state="queued") == 1
    assert value(found, "fleet_tasks", state="running") == 1
    assert value(found, "fleet_queue_attempts", queue="paid.moonshot", state="waiting") == 1
    assert 0 < value(found, "fleet_queue_oldest_age_seconds", queue="paid.moonshot") < 60
    assert 0 < value(found, "fleet_task_oldest_age_seconds") < 60
    assert value(found, "fleet_attempts_total", **kimi, outcome="succeeded") == 2
    assert value(found, "fleet_attempts_total", **kimi, outcome="lost") == 1
    assert value(found, "fleet_unpriced_attempts_total", **kimi, outcome="succeeded") == 1
    assert value(found, "fleet_cost_usd_total", **kimi) == 0.25
    assert value(found, "fleet_provisional_cost_usd", **kimi) == 0.5
    assert value(found, "fleet_tokens_total", **kimi, type="prompt") == 6
    assert value(found, "fleet_tokens_total", **kimi, type="completion") == 10
    assert value(found, "fleet_attempt_wait_seconds_count", **kimi) == 3
    assert value(found, "fleet_brain_leading") == 1
    assert value(found, "fleet_brain_tick_seconds_count") == 10
    assert value(found, "fleet_brain_tick_seconds_sum") == 0.5
    assert value(found, "fleet_worker_slots", worker="paid@test", queue="paid.moonshot") == 4
    assert value(found, "fleet_worker_slots_in_use", worker="paid@test") == 1
    assert value(found, "fleet_worker_memory_bytes", worker="paid@test") == 179_000_000
    assert 60 <= value(found, "fleet_worker_heartbeat_age_seconds", worker="paid@test") < 120


def test_no_counter_goes_down_when_a_late_answer_corrects_a_cost(busy: Connection):
    """Prometheus would take it for a restart, and count all that was ever spent once more."""
    before = read(busy)
    (lost,) = busy.execute("SELECT task_id FROM attempts WHERE outcome = 'lost'").fetchall()
    attempts.finish(busy, [a_finish(lost[0], cost_usd=Decimal("0.1"))])
    after = read(busy)

    assert value(after, "fleet_provisional_cost_usd", model="kimi", tier="paid") == 0.1
    counters = [key for key in before if key[0].endswith(("_total", "_count"))]
    assert counters
    assert all(after[key] >= before[key] for key in counters)


def test_an_empty_ledger_has_metrics_too(db: Connection):
    """The first scrape comes before the first task; a dispatcher that is missing has to show."""
    found = read(db)

    assert value(found, "fleet_brain_leading") == 0
    assert value(found, "fleet_tasks", state="held") == 0


def test_names_and_units_follow_the_convention(busy: Connection):
    """Base units, a suffix that says which, `_total` for what only grows."""
    for name, _ in read(busy):
        assert re.fullmatch(r"fleet_[a-z_]+", name)
        assert not re.search(r"_(ms|minutes|milliseconds|kb)(_|$)", name)


def test_it_is_served_over_http(busy: Connection, pages: TestClient):
    """It is asked by Prometheus in its own dialect, and by people in a browser."""
    for_people = pages.get("/metrics", headers={"Accept": "text/html"})
    for_prometheus = pages.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert for_people.headers["content-type"].startswith("text/plain")
    assert 'fleet_attempts_total{model="kimi",outcome="lost",tier="paid"} 1.0' in for_people.text
    assert for_prometheus.headers["content-type"].startswith("application/openmetrics-text")
    assert for_prometheus.text.endswith("# EOF\n")


def expressions() -> Iterator[tuple[str, str]]:
    rules: Any = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    for panel in GRAFANA["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_alerts_and_charts_ask_for_metrics_that_exist(busy: Connection, where: str, expression: str):
    """A rule over a misspelt metric loads without complaint, and never fires."""
    known = {name for name, _ in read(busy)}

    asked = set(METRIC.findall(expression))

    assert asked
    assert asked <= known


def test_every_chart_has_a_place_of_its_own():
    """Grafana loads overlapping panels, and shows a heap."""
    ids = [panel["id"] for panel in GRAFANA["panels"]]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in GRAFANA["panels"]}

    assert len(set(ids)) == len(places) == len(GRAFANA["panels"])


def test_grafana_knows_every_word_of_the_dashboard():
    """What its own types do not know is dropped at the import, without a word."""
    register_default_plugins()

    read = json.loads(JSONEncoder().encode(Dashboard.from_json(GRAFANA)))

    assert list(dropped(GRAFANA, read, "")) == []


def dropped(had: Any, kept: Any, place: str) -> Iterator[str]:
    """List what is not as it was; more may have come."""
    if isinstance(had, dict) and isinstance(kept, dict):
        for key, value in had.items():
            yield from dropped(value, kept.get(key), f"{place}/{key}")
    elif isinstance(had, list) and isinstance(kept, list):
        for number, (value, other) in enumerate(zip(had, kept, strict=True)):
            yield from dropped(value, other, f"{place}/{number}")
    elif had != kept:
        yield f"{place}: {had!r} became {kept!r}"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool comes with Debian's package prometheus")
def test_promtool_takes_rules_and_metrics(busy: Connection):
    """It is the parser that Prometheus itself has."""

    @contextmanager
    def reading() -> Generator[Connection]:
        yield busy

    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True)
    subprocess.run(["promtool", "check", "metrics"], input=exposition(reading)[0], check=True)
