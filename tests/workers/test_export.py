"""`fleet export`: what is in the ledger is in the file, to the nano-dollar."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from ledger import attempts, leadership, tasks
from ledger.connect import Connection
from ledger.export import Table
from tests.ledger.made import a_finish, a_placement, a_task
from workers.export import Format, export

COST = Decimal("0.123456789")
SECRET = "what was asked"


@pytest.fixture
def done(db: Connection) -> int:
    """Fill the ledger with tasks that are done."""
    epoch = leadership.take(db, "test", 60)
    assert epoch is not None
    new = [a_task(request={"messages": [{"role": "user", "content": SECRET}]}) for _ in range(3)]
    tasks.accept(db, new, epoch=epoch, placements=[a_placement(task.id) for task in new])
    attempts.claim(db, [(task.id, 1) for task in new], worker="w", lease_s=60)
    answer = {"message": {"role": "assistant", "content": SECRET}}
    attempts.finish(db, [a_finish(task.id, cost_usd=COST, answer=answer) for task in new])
    return len(new)


def exported(db_url: str, target: Path, table: Table, form: Format, **options: Any) -> int:
    since = datetime.now(UTC) - timedelta(days=1)
    told: Callable[[int], object] = lambda _: None  # noqa: E731
    wanted: dict[str, Any] = {"since": since, "with_text": False, "on_progress": told, **options}
    return export(db_url, table, target, form=form, **wanted)


def test_json_lines_have_every_attempt_with_exact_costs(done: int, db_url: str, tmp_path: Path):
    target = tmp_path / "attempts.jsonl"
    assert exported(db_url, target, "attempts", "jsonl") == done
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [Decimal(row["cost_usd"]) for row in rows] == [COST] * done
    assert {row["outcome"] for row in rows} == {"succeeded"}
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("table", ["tasks", "attempts"])
def test_parquet_has_the_same_rows(done: int, db_url: str, tmp_path: Path, table: Table):
    exported(db_url, tmp_path / "rows.jsonl", table, "jsonl", with_text=True)
    exported(db_url, tmp_path / "rows.parquet", table, "parquet", with_text=True)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    read = parquet.read_table(tmp_path / "rows.parquet")
    assert read.num_rows == len(lines) == done
    assert read.column_names == list(lines[0])
    if table == "attempts":
        assert read["cost_usd"].to_pylist() == [COST] * done
    else:
        asked = [json.loads(text)["messages"][0]["content"] for text in read["request"].to_pylist()]
        assert asked == [SECRET] * done


@pytest.mark.parametrize("table", ["tasks", "attempts"])
def test_text_is_there_only_where_it_is_asked_for(done: int, db_url: str, tmp_path: Path, table: Table):
    target = tmp_path / "rows.jsonl"
    exported(db_url, target, table, "jsonl")
    assert SECRET not in target.read_text()
    exported(db_url, target, table, "jsonl", with_text=True)
    assert target.read_text().count(SECRET) == done


def test_what_is_older_is_left_out(done: int, db_url: str, tmp_path: Path):
    assert done
    later = datetime.now(UTC) + timedelta(days=1)
    assert exported(db_url, tmp_path / "rows.jsonl", "tasks", "jsonl", since=later) == 0


@pytest.mark.usefixtures("done")
def test_a_file_that_could_not_be_finished_is_not_there(
    db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Half a file would be taken for the whole."""
    target = tmp_path / "rows.jsonl"
    target.write_text("the one before")
    monkeypatch.setattr("workers.export.as_json", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exported(db_url, target, "tasks", "jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert target.read_text() == "the one before"
