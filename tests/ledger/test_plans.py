"""The plans of the statements that run for every task, made while the tables are empty."""

import re
from itertools import count
from typing import Any, cast

import pytest

from ledger import attempts, tasks
from ledger.connect import connect


@pytest.mark.parametrize(
    "statement", [tasks.QUEUE, tasks.FAIL, attempts.CLAIM, attempts.RENEW, attempts.FINISH]
)
def test_a_step_finds_its_rows_by_their_keys(db_url: str, statement: str):
    """A step that reads all that is held or open gets slower with every task that waits."""
    numbers = count(1)
    names = {name: f"${next(numbers)}" for name in dict.fromkeys(re.findall(r"%\((\w+)\)s", statement))}
    numbered = re.sub(r"%\((\w+)\)s", lambda found: names[found[1]], statement)
    with connect(db_url, name="test", by_key=True) as db:
        rows = db.execute(cast("Any", f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered}")).fetchall()

    scans = [
        node
        for node in nodes(rows[0][0][0]["Plan"])
        if node.get("Relation Name", "").startswith(("tasks", "attempts"))
    ]

    assert [node["Index Cond"] for node in scans if "Scan" in node["Node Type"]]
    assert not [node for node in scans if "Scan" in node["Node Type"] and "Index Cond" not in node]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """List a plan's nodes, itself first."""
    return [plan, *(node for part in plan.get("Plans", []) for node in nodes(part))]
