"""The commands that explain and cancel, on a fleet that runs."""

import json
import subprocess

import pytest
from celery.exceptions import TaskRevokedError

from config.settings import Settings
from tests.fleet.conftest import wait_for
from tests.fleet.processes import run_fleet
from workers import complete

pytestmark = pytest.mark.usefixtures("app")

WAIT_S = 20


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_fleet({**environment, "COLUMNS": "200"}, *arguments, timeout_s=WAIT_S)


def test_a_task_that_waits_for_ever_is_explained_and_cancelled(environment: dict[str, str], fleet: Settings):
    """A mistake in a profile must be found, and its tasks taken back, without SQL."""
    pending = complete.delay("hello", profile="nowhere", agent="explained")
    wait_for(fleet, "SELECT count(*) FROM tasks WHERE agent = 'explained' AND state = 'held'", 1)

    explained = run(environment, "explain", pending.id[:13])
    cancelled = run(environment, "cancel", pending.id[:13])
    again = run(environment, "cancel", pending.id)

    assert "no live worker on queue mlx.absent" in explained.stdout
    assert (cancelled.returncode, cancelled.stdout) == (
        0,
        f"task {pending.id}: cancelled; no worker had begun it\n",
    )
    assert (again.returncode, "it has ended already: cancelled" in again.stderr) == (1, True)
    with pytest.raises(TaskRevokedError):
        pending.get(timeout=WAIT_S)


def test_a_finished_task_is_explained_for_a_program(environment: dict[str, str]):
    """What a person reads, a script has to be able to read too."""
    pending = complete.delay("one two", profile="social")
    pending.get(timeout=WAIT_S)

    found = json.loads(run(environment, "explain", pending.id, "--json").stdout)

    assert (found["task"]["state"], found["now"]) == ("succeeded", None)
    assert [(each["model"], each["outcome"]) for each in found["attempts"]] == [("echo", "succeeded")]


def test_a_text_is_explained_before_it_is_sent(environment: dict[str, str]):
    """The same catalog and the same workers as the brain has."""
    found = run(environment, "explain", "--profile", "social", "text")

    assert "It runs on echo." in found.stdout


def test_the_models_of_a_fleet_are_listed(environment: dict[str, str]):
    """A worker on another host is seen through the ledger alone."""
    found = {each["name"]: each for each in json.loads(run(environment, "models", "--json").stdout)}

    assert found["parrot"]["state"] == "ready"
    assert found["absent"]["state"] == "busy"


@pytest.mark.parametrize("arguments", [("explain", "my-task"), ("cancel", "my-task")])
def test_what_is_no_id_is_one_sentence(environment: dict[str, str], arguments: tuple[str, ...]):
    """A person mistypes; a traceback does not say what."""
    found = run(environment, *arguments)

    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert "is not the id of a task" in found.stderr
