"""Cron jobs as agents have them, and what becomes of them here."""

from pathlib import Path

import pytest
import yaml

from config.catalog import Catalog, RecurringTask, load_catalog
from config.settings import SHIPPED_CONFIG
from workers.errors import ImportFileError
from workers.schedule.importing import Imported, as_yaml, read_jobs

JOBS = """
jobs:
  - name: Morning Digest
    cron: "0 30 7 * * 1-5"
    text: What happened since yesterday?
    agent: journalist
    session: main
    delivery: https://example.com/digest
    best_effort_deliver: false
    enabled: true
  - name: exploration
    every: "15m"
    text: Look around.
    agent: scout
    session: isolated
    delivery: telegram
    enabled: false
    model: openrouter/qwen/qwen3-coder:free
  - name: work_cycle
    every: 15m
    text: Look around.
    agent: creative
    model: gpt-9
  - name: work-cycle
    every: 20m
    text: The same name once more.
  - name: half-minute
    cron: "30 * * * * *"
    text: Look around.
    agent: creative
    color: blue
  - name: silent
    every: 1h
  - name: odd
    every: 1h30m
    text: Not a period.
"""


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load_catalog(SHIPPED_CONFIG)


@pytest.fixture
def found(tmp_path: Path, shipped: Catalog) -> Imported:
    file = tmp_path / "jobs.yaml"
    file.write_text(JOBS)
    return read_jobs(file, shipped)


def test_what_comes_out_is_a_schedule(found: Imported):
    """An import that has to be mended by hand before it loads is half an import."""
    written = yaml.safe_load("schedule:\n" + as_yaml(found))["schedule"]

    assert written == found.entries
    for name, entry in written.items():
        RecurringTask.model_validate({**entry, "name": name})
    assert written["morning-digest"] == {
        "cron": "30 7 * * 1-5",
        "focus": "journalist",
        "prompt": "What happened since yesterday?",
        "agent": "journalist",
        "deliver": {"webhook": "https://example.com/digest"},
    }
    assert written["exploration"] == {
        "every": "15m",
        "model": "qwen3-coder-free",
        "prompt": "Look around.",
        "agent": "scout",
        "enabled": False,
    }
    assert written["work-cycle"]["profile"] == written["work-cycle"]["focus"] == "creative"


def test_what_could_not_be_carried_over_is_listed(found: Imported):
    """What is dropped silently is missed when it is needed."""
    remarks = [f"{job}: {remark}" for job, remark in found.remarks]

    assert [
        any(part in remark for remark in remarks)
        for part in (
            "Morning Digest: is named morning-digest here",
            "Morning Digest: session 'main': a run knows nothing of earlier ones",
            "Morning Digest: best_effort_deliver: false",
            "exploration: agent 'scout' is neither a focus nor a profile",
            "exploration: delivery 'telegram': the answer stays in the ledger",
            "work_cycle: model 'gpt-9' is not in models.yaml",
            "half-minute: second '30' becomes 0",
            "half-minute: the key color means nothing here",
            "half-minute: asks the same as work-cycle",
        )
    ] == [True] * 9


def test_a_job_that_cannot_run_is_left_out_with_the_reason(found: Imported):
    """The duplicate of the audit was a job of the same name."""
    assert found.left_out == [
        ("work-cycle", "another job is named work-cycle, too"),
        ("silent", "it has no text"),
        ("odd", "every: expected a number and s, m, h or d, such as 15m, got '1h30m'"),
    ]


@pytest.mark.parametrize("text", ["jobs: 5", "- a\n", "jobs: [\n", ""])
def test_another_file_is_refused(tmp_path: Path, shipped: Catalog, text: str):
    """A sentence that says what such a file looks like, not a traceback."""
    file = tmp_path / "jobs.yaml"
    file.write_text(text)

    with pytest.raises(ImportFileError, match=r"jobs\.yaml cannot be imported"):
        read_jobs(file, shipped)
