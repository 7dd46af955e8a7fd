"""`fleet replay`: traces of every shape, the ledger's own tasks, and what is said of them."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from config.catalog import Catalog, load_catalog
from config.settings import SHIPPED_CONFIG, settings
from ledger import attempts, leadership, tasks, workers
from ledger.attempts import Finish
from ledger.connect import Connection, connect
from ledger.tasks import Placement
from tests.ledger.made import a_task
from workers.cli import main
from workers.errors import NothingToReplayError, TraceError
from workers.replay import Assumptions, Workload, recorded, replay
from workers.trace import read_trace

ECHO = Path(__file__).parents[1] / "catalogs/echo"
DAY = date(2026, 11, 23)

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""

OWN = """timestamp,prompt_tokens,completion_tokens,profile
2026-11-20T09:00:05Z,100,50,social
2026-11-20T10:00:00+01:00,200,60,code
"""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(SHIPPED_CONFIG)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


def test_a_trace_keeps_its_times_of_day_and_its_order(trace: Path, catalog: Catalog):
    """Quotas end at midnight: a day that is moved by an hour is another day."""
    trace.write_text(OWN)

    first, second = read_trace(trace, catalog, day=DAY, deadline_s=60)

    assert first.task.accepted_at == datetime(2026, 11, 23, 9, 0, 5, tzinfo=UTC)
    assert second.task.accepted_at == datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    assert (first.prompt_tokens, first.completion_tokens, first.task.profile) == (100, 50, "social")
    assert first.task.deadline == first.task.accepted_at + timedelta(seconds=60)


@pytest.mark.parametrize(
    "text",
    [
        AZURE,
        "\ufeff" + AZURE,
        AZURE.replace("\n", "\r\n"),
        "Time, Prompt Tokens ,output-tokens,model\n5.5,4808,10,x\n\n5.6,3180,8,y\n",
    ],
    ids=["azure", "from a spreadsheet", "from Windows", "other names"],
)
def test_a_trace_from_elsewhere_is_understood(text: str, trace: Path, catalog: Catalog):
    """Published traces name their columns as they like."""
    trace.write_text(text, newline="")

    found = read_trace(trace, catalog, day=DAY, profile="code")

    assert [(each.prompt_tokens, each.completion_tokens) for each in found] == [(4808, 10), (3180, 8)]
    assert {each.task.profile for each in found} == {"code"}
    assert found[1].task.accepted_at > found[0].task.accepted_at


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", (1, ""), "expected a header with timestamp, prompt_tokens, completion_tokens, profile"),
        ("timestamp,prompt_tokens,profile\n", (1, "completion_tokens"), "expected a column of that name"),
        ("timestamp,prompt_tokens,completion_tokens\n", (1, "profile"), "or --profile for all requests"),
        (OWN.replace(",50,", ",fifty,"), (2, "completion_tokens"), "a whole number of tokens, got 'fifty'"),
        (OWN.replace(",200,", ",-200,"), (3, "prompt_tokens"), "a whole number of tokens, got '-200'"),
        (OWN.replace(",200,", ",²,"), (3, "prompt_tokens"), "a whole number of tokens"),
        (OWN.replace("2026-11-20T09:00:05Z", "nine"), (2, "timestamp"), "got 'nine'"),
        (OWN.replace("2026-11-20T09:00:05Z", "nan"), (2, "timestamp"), "got 'nan'"),
        (OWN.replace("2026-11-20T09:00:05Z", "1e300"), (2, "timestamp"), "got '1e300'"),
        (OWN.replace(",code", ",cooking"), (3, "profile"), "got 'cooking'"),
        (OWN.replace("100,50,social", "100,50"), (2, "profile"), "expected 4 cells or more, got 3"),
        (OWN.splitlines()[0], (2, ""), "at least one request below the header"),
        ('timestamp,"prompt', (0, ""), "expected comma-separated values"),
    ],
)
def test_a_faulty_trace_is_refused_with_its_place(
    text: str, place: tuple[int, str], says: str, trace: Path, catalog: Catalog
):
    """A file of a million lines with one bad cell is mended only by who is told which."""
    trace.write_text(text)

    with pytest.raises(TraceError) as refused:
        read_trace(trace, catalog, day=DAY)

    assert (refused.value.line, refused.value.column) == place
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"{trace}:{place[0]}" if place[0] else str(trace))


def test_what_is_no_text_and_what_is_not_there_is_refused(trace: Path, catalog: Catalog):
    """A wrong path is the most common mistake."""
    with pytest.raises(TraceError, match="No such file"):
        read_trace(trace, catalog, day=DAY)
    trace.write_bytes(b"timestamp,\xff\xfe")
    with pytest.raises(TraceError, match="text in UTF-8"):
        read_trace(trace, catalog, day=DAY)
    with pytest.raises(TraceError, match="directory"):
        read_trace(trace.parent, catalog, day=DAY)


def test_a_trace_replays_the_same_twice(trace: Path, catalog: Catalog):
    """Two configs are compared on the same seed."""
    trace.write_text(OWN)
    workload = Workload("a trace", read_trace(trace, catalog, day=DAY))
    assumptions = Assumptions(seed=3, outages_per_day=2)

    once, again = (replay(workload, catalog, assumptions) for _ in range(2))

    assert once.tallies == again.tallies
    assert [tally.policy for tally in once.tallies] == [
        "this config",
        "all on kimi",
        "immediate fallback",
        "fallback and retries",
    ]
    assert all(tally.tasks == 2 for tally in once.tallies)


# On a real ledger.


@pytest.fixture
def db(db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Let this process's fleet be the one of an empty ledger, with the echo catalog."""
    monkeypatch.setenv("FLEET_DATABASE_URL", db_url)
    monkeypatch.setenv("FLEET_CONFIG", str(ECHO))
    settings.cache_clear()
    with connect(db_url, name="test") as connection:
        yield connection
    settings.cache_clear()


@pytest.fixture
def epoch(db: Connection) -> int:
    workers.seen(db, name="echo@test", host="test", pid=1, slots={"echo.echo": 2})
    epoch = leadership.take(db, "test", 60)
    assert epoch is not None
    return epoch


def accepted(db: Connection, epoch: int, **different: Any) -> UUID:
    task = a_task(**{"needs": {"prompt_tokens": 40, "max_tokens": 100}, **different})
    tasks.accept(db, [task], epoch=epoch)
    return task.id


def ran(db: Connection, epoch: int, task_id: UUID, number: int, **end: Any) -> None:
    placement = Placement(task_id, "echo", "local", "echo.echo", [], Decimal("0.25"), 140)
    tasks.queue(db, [placement], epoch=epoch)
    attempts.claim(db, [(task_id, number)], worker="echo@test", lease_s=60)
    attempts.finish(db, [Finish(task_id, number, **end)])


SUCCEEDED: dict[str, Any] = {
    "outcome": "succeeded",
    "next_state": "succeeded",
    "prompt_tokens": 21,
    "completion_tokens": 7,
    "cost_usd": Decimal("0.0005"),
    "first_token_s": 0.25,
    "answer": {"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"},
}


def failed(cause: str) -> dict[str, Any]:
    return {
        "outcome": "failed",
        "next_state": "held",
        "cost_usd": Decimal(0),
        "error": {"type": "E", "module": "x", "args": [], "text": "no", "lesson": {"cause": cause}},
    }


@pytest.fixture
def past(db: Connection, epoch: int) -> None:
    """Let one task succeed at the third attempt, one fail, one expire, one wait and one be cancelled."""
    task_id = accepted(db, epoch)
    ran(db, epoch, task_id, 1, **failed("rate_limit"))
    ran(db, epoch, task_id, 2, **failed("fault"))
    ran(db, epoch, task_id, 3, **SUCCEEDED)
    lost, late = accepted(db, epoch), accepted(db, epoch, deadline=datetime.now(UTC))
    ends = {lost: {"type": "NoModelError"}, late: {"type": "ExpiredError"}}
    tasks.fail(db, ends, epoch=epoch)
    accepted(db, epoch)
    tasks.cancel(db, [accepted(db, epoch)], epoch=epoch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments], env={"COLUMNS": "200"})


def test_what_happened_stands_beside_what_would_have(db: Connection, past: None):
    """Without the truth beside it, a simulation is believed or not."""
    found = replay(
        recorded(db, datetime.now(UTC) - timedelta(hours=1)),
        load_catalog(ECHO),
        Assumptions(),
    )

    truth, ours = found.tallies[0], found.tallies[1]
    assert (truth.succeeded, truth.failed, truth.expired, truth.waiting, truth.tasks) == (1, 1, 1, 1, 4)
    assert (truth.usd, truth.useless, truth.faulty, truth.calls["local"]) == (Decimal("0.0005"), 1, 1, 3)
    assert (truth.missed, dict(truth.reasons)) == (1, {"NoModelError": 1})
    assert (ours.tasks, found.workload.guessed) == (4, 3)
    first = found.workload.arrivals[0]
    assert (first.task.needs.prompt_tokens, first.prompt_tokens, first.completion_tokens) == (40, 21, 7)
    assert set(found.workload.speeds or {}) == {"echo"}


def test_an_empty_time_is_said_to_be_one(db: Connection, epoch: int):
    """A table of zeros would look like an answer."""
    with pytest.raises(NothingToReplayError, match="name a longer time with --since"):
        recorded(db, datetime.now(UTC))


def test_the_command_prints_a_table_and_what_it_rests_on(past: None):
    """Figures without what was assumed are taken for measurements."""
    result = run("--since", "1h")

    assert result.exit_code == 0
    for part in ("what happened", "this config", "deadlines missed", "What is simulated", "3 recorded tasks"):
        assert part in result.output


def test_the_command_prints_json(past: None):
    """Whoever tries twenty configs reads them with a program."""
    result = run("--since", "1h", "--json", "--seed", "4", "--outage", "echo.echo@1s+1m")

    found = json.loads(result.stdout)
    assert [each["policy"] for each in found["policies"]][:2] == ["what happened", "this config"]
    assert found["tasks"] == 4
    assert set(found["policies"][1]["waited_s"]) == {"p50", "p95", "p99"}


def test_another_config_and_other_slots_change_the_outcome(past: None, tmp_path: Path):
    """This is the question that the command is for."""
    for name in ("models.yaml", "profiles.yaml", "schedule.yaml"):
        (tmp_path / name).write_text((ECHO / name).read_text())

    nobody = run("--config", str(tmp_path), "--slots", "echo.echo=0", "--slots", "echo.parrot=0", "--json")
    somebody = run("--config", str(tmp_path), "--json")

    for result, answered in ((nobody, 0), (somebody, 3)):
        ours = json.loads(result.stdout)["policies"][1]
        assert ours["policy"] == str(tmp_path)
        assert (ours["succeeded"] >= answered, ours["succeeded"] > 0) == (True, answered > 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "7x"], "expected a number and s, m, h or d"),
        (["--outage", "echo"], "expected NAME@AFTER+LENGTH like"),
        (["--outage", "eco@1h+1h"], "did you mean 'echo'?"),
        (["--slots", "echo.echo"], "expected QUEUE=NUMBER like"),
        (["--slots", "echo.eco=1"], "did you mean 'echo.echo'?"),
        (["--profile", "social"], "add --trace FILE.csv"),
        (["--profile", "socail", "--trace", "x"], "did you mean 'social'?"),
        (["--trace", "nowhere.csv"], "nowhere.csv: expected a CSV file"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_right(db: Connection, arguments: list[str], says: str):
    """An option that is misspelt and ignored gives the answer to another question."""
    result = run(*arguments)

    assert result.exit_code in (1, 2)
    assert says in result.output
