"""`fleet spend` and `fleet db recount`, as somebody types them."""

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from config.catalog import load_catalog
from config.settings import read_settings, settings
from ledger import attempts, leadership, tasks
from ledger.connect import Connection, connect
from tests.ledger.made import a_finish, a_placement, a_task
from workers.catalog import catalog
from workers.cli import main
from workers.housekeeper import Housekeeper

CATALOG = Path(__file__).parents[1] / "catalogs/echo"

MODELS = """
providers: {}
models:
  kimi:
    tier: paid
    engine: echo
    context_tokens: 1000
    prices:
      - input_usd_per_mtok: 1000
        output_usd_per_mtok: 2000
        since: 2020-01-01
        source: test
        checked_on: 2020-01-01
  echo: {tier: local, engine: echo, context_tokens: 1000}
"""
PROFILES = """
profiles:
  social: {model: echo, temperature: 0.5, max_tokens: 100, prompt: Hello}
routing: {primary: kimi}
"""


@pytest.fixture
def fleet(tmp_path: Path, db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Give the commands a paid, a local and an unpriced attempt, and a catalog with one price."""
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "profiles.yaml").write_text(PROFILES)
    (tmp_path / "schedule.yaml").write_text("schedule: {}\n")
    monkeypatch.setenv("FLEET_CONFIG", str(tmp_path))
    monkeypatch.setenv("FLEET_DATABASE_URL", db_url)
    monkeypatch.setenv("FLEET_HOME", str(tmp_path))
    settings.cache_clear()
    catalog.cache_clear()
    with connect(db_url, name="test") as db:
        epoch = leadership.take(db, "test", 60)
        assert epoch is not None
        for model, tier, cost in (("kimi", "paid", "0.1"), ("echo", "local", "0"), ("odd", "paid", None)):
            task = a_task(agent=f"of-{model}")
            tasks.accept(db, [task], epoch=epoch)
            tasks.queue(db, [a_placement(task.id, model=model, tier=tier)], epoch=epoch)
            attempts.claim(db, [(task.id, 1)], worker="w", lease_s=60)
            usd = None if cost is None else Decimal(cost)
            end = a_finish(task.id, prompt_tokens=100, completion_tokens=50, cost_usd=usd)
            attempts.finish(db, [end])
        yield db
    settings.cache_clear()
    catalog.cache_clear()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})


def of(*arguments: str) -> Any:
    answer = run("spend", *arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.output)


def test_it_says_what_was_spent_and_saved(fleet: Connection):
    """The question that the audit asked."""
    found = of("--by", "model")

    by_model = {row["model"]: row for row in found["rows"]}
    assert by_model["echo"]["cost_usd"] == "0"
    assert by_model["echo"]["saved_usd"] == "0.2"
    assert by_model["kimi"]["saved_usd"] == "0.1"
    assert by_model["odd"]["unpriced"] == 1
    assert found["total"]["cost_usd"] == "0.1"
    assert found["total"]["primary_usd"] == "0.6"
    assert found["primary"] == "kimi"


def test_the_table_marks_what_has_no_known_price(fleet: Connection):
    """A sum that leaves something out must say so."""
    printed = run("spend", "--by", "model,agent").output

    assert "Not in the cost: 1 attempts of unknown price." in printed
    assert "of-odd" in printed
    assert "$0*" in printed
    assert "$0.6" in printed


def test_a_spreadsheet_reads_the_same_figures(fleet: Connection):
    """Accounting gets the lines, not a picture of them."""
    answer = run("spend", "--by", "tier,day", "--csv")
    lines = list(csv.DictReader(StringIO(answer.output)))

    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal("0.1")
    assert [line["tier"] for line in lines] == ["local", "paid"]
    assert {line["day"] for line in lines} == {row["day"] for row in of("--by", "day")["rows"]}


def test_a_time_without_attempts_is_not_an_error(fleet: Connection):
    """A new fleet has spent nothing."""
    nothing = ("--since", "2020-01-01", "--until", "2020-02-01")

    assert run("spend", *nothing).output.startswith("No attempt has ended since 2020-01-01 00:00 UTC")
    assert of(*nothing)["rows"] == []
    assert of(*nothing)["total"] is None


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (
            ("--since", "yesterday"),
            "expected a period such as 7d or a day such as 2026-11-01, got 'yesterday'",
        ),
        (("--until", "7 days"), "expected a period such as 7d"),
        (("--by", "model,colour"), "got 'colour'"),
    ],
)
def test_what_it_does_not_understand_it_says(fleet: Connection, arguments: tuple[str, ...], what: str):
    """A typo must not become another question."""
    answer = run("spend", *arguments)

    assert answer.exit_code == 2
    assert what in " ".join(answer.output.replace("│", " ").split())


def test_a_recount_says_what_it_found_and_mends_it(fleet: Connection):
    """After somebody wrote to the ledger by hand."""
    right = run("db", "recount", "--check")
    fleet.execute("UPDATE attempts SET cost_usd = 2 WHERE model = 'kimi'")
    wrong = run("db", "recount", "--check")
    mended = run("db", "recount")

    assert (right.exit_code, right.output) == (0, "the sums equal the attempts\n")
    assert wrong.exit_code == 1
    assert "kimi, social, of-kimi, succeeded: +0 attempts, $1.9" in wrong.output
    assert mended.output.endswith("corrected 1 sums\n")
    assert run("db", "recount", "--check").exit_code == 0
    assert of()["total"]["cost_usd"] == "2"


def test_the_housekeeper_adds_up_what_changed(fleet: Connection, db_url: str):
    """Otherwise pages would read one row for each answer, and get slower all day."""
    using = read_settings({"FLEET_DATABASE_URL": db_url, "FLEET_CONFIG": str(CATALOG)})

    Housekeeper(using, load_catalog(CATALOG)).make_a_round()

    assert fleet.execute("SELECT count(*) FROM spend_changes").fetchone() == (0,)
    assert fleet.execute("SELECT sum(attempts) FROM spend_by_hour").fetchone() == (3,)
