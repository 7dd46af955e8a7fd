"""What `fleet explain`, `fleet models` and `fleet cancel` say, on a real Postgres with made-up pasts."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from config.catalog import Catalog, load_catalog
from config.errors import UnknownNameError
from config.settings import SHIPPED_CONFIG, read_settings
from ledger import attempts, leadership, tasks, workers
from ledger.attempts import Finish
from ledger.connect import Connection
from ledger.tasks import Placement
from tests.ledger.made import a_task
from workers.cancel import cancel
from workers.errors import NotThereError, UnknownTaskError
from workers.explain import expect, life_as_json, show_forecast, show_life
from workers.forecast import Forecast
from workers.life import find_task, life
from workers.model_states import ModelState, model_states, show
from workers.reading import reading

CATALOG = Path(__file__).parents[1] / "catalogs/echo"
SECRET = "a prompt that nobody else should see"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(CATALOG)


@pytest.fixture
def worker(db: Connection) -> str:
    workers.seen(db, name="echo@test", host="test", pid=1, slots={"echo.echo": 2, "echo.parrot": 1})
    return "echo@test"


def accepted(db: Connection, epoch: int, **different: Any) -> UUID:
    mine: dict[str, Any] = {
        "agent": "tester",
        "priority": 3,
        "needs": {"prompt_tokens": 20, "max_tokens": 100},
        "request": {"messages": [{"role": "user", "content": SECRET}]},
    }
    task = a_task(**{**mine, **different})
    tasks.accept(db, [task], epoch=epoch)
    return task.id


def queued(
    db: Connection, epoch: int, task_id: UUID, *passed_over: Sequence[str], model: str = "echo"
) -> None:
    placement = Placement(task_id, model, "local", f"echo.{model}", passed_over, Decimal("0.25"), 120)
    tasks.queue(db, [placement], epoch=epoch)


def ran(db: Connection, task_id: UUID, number: int, worker: str, **end: Any) -> None:
    attempts.claim(db, [(task_id, number)], worker=worker, lease_s=60)
    if end:
        attempts.finish(db, [Finish(task_id, number, **end)])


def printed(what: Any) -> str:
    """Print a life, a forecast or a table of models, on one wide line each."""
    console = Console(width=300, file=StringIO())
    if isinstance(what, Forecast):
        show_forecast(console, what)
    elif isinstance(what, list):
        show(console, what)
    else:
        show_life(console, what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


FAILED: dict[str, Any] = {
    "outcome": "failed",
    "next_state": "held",
    "cost_usd": Decimal("0.125"),
    "error": {"type": "ProviderError", "module": "x", "args": [], "text": "the provider sent 503"},
}
SUCCEEDED: dict[str, Any] = {
    "outcome": "succeeded",
    "next_state": "succeeded",
    "prompt_tokens": 21,
    "cached_tokens": 4,
    "completion_tokens": 7,
    "cost_usd": Decimal("0.0005"),
    "first_token_s": 0.25,
    "answer": {"message": {"role": "assistant", "content": SECRET}, "finish_reason": "stop"},
}


def test_a_life_tells_of_every_attempt_with_its_reasons_and_costs(
    db: Connection, epoch: int, worker: str, catalog: Catalog
):
    """Afterwards nobody could say why a task ran where it ran, and what was spent on the way."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id, ["absent", "no live worker on queue mlx.absent"])
    ran(db, task_id, 1, worker, **FAILED)
    queued(db, epoch, task_id, ["echo", "tried: the provider sent 503"], model="parrot")
    ran(db, task_id, 2, worker, **SUCCEEDED)

    text = printed(life(db, catalog, str(task_id)))

    for part in (
        f"Task {task_id}  succeeded",
        "profile social, agent tester",
        "absent: no live worker on queue mlx.absent",
        "failed: the provider sent 503",
        "Attempt 2 on parrot",
        "by echo@test",
        "21 in (4 of them cached), 7 out",
        "the first token came after 0.25 s",
        "$0.0005 ($0.25 was reserved)",
        "$0.1255 for 2 attempts",
    ):
        assert part in text


def test_a_life_shows_no_prompt_and_no_answer(db: Connection, epoch: int, worker: str, catalog: Catalog):
    """What is pasted into an issue must not carry what a customer wrote."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id)
    ran(db, task_id, 1, worker, **SUCCEEDED)

    found = life(db, catalog, str(task_id))

    assert SECRET not in printed(found)
    assert SECRET not in json.dumps(life_as_json(found), default=str)


def test_a_task_that_waits_says_what_each_candidate_lacks(db: Connection, epoch: int, catalog: Catalog):
    """A task that no worker can serve waits for ever, and nobody could say why."""
    task_id = accepted(db, epoch, profile="nowhere")

    found = life(db, catalog, str(task_id))

    assert found.forecast is not None
    assert found.forecast.decision == "wait"
    assert [(each.model, each.why) for each in found.forecast.candidates] == [
        ("absent", "no live worker on queue mlx.absent")
    ]
    assert "no worker serves any of its candidates" in printed(found)


def test_a_task_that_waits_for_nobody_to_decide_says_so(db: Connection, epoch: int, catalog: Catalog):
    """With no dispatcher the models are not to blame."""
    task_id = accepted(db, epoch)
    leadership.resign(db, epoch)

    assert "no dispatcher leads" in printed(life(db, catalog, str(task_id)))


def test_a_task_whose_time_has_not_come_says_when_it_comes(
    db: Connection, epoch: int, worker: str, catalog: Catalog
):
    """A countdown looks like a hang to whoever did not set it."""
    task_id = accepted(db, epoch, not_before=datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC))

    found = life(db, catalog, str(task_id))

    assert found.forecast is not None
    assert found.forecast.text == "It waits for its time, 2100-01-02 03:04:05 UTC."


def test_a_task_that_names_what_the_catalog_lost_is_still_explained(
    db: Connection, epoch: int, catalog: Catalog
):
    """A profile is renamed while tasks of it wait."""
    task_id = accepted(db, epoch, profile="renamed-since")

    assert "no profile is named 'renamed-since'" in printed(life(db, catalog, str(task_id)))


def test_a_queued_task_whose_workers_left_says_so(db: Connection, epoch: int, catalog: Catalog):
    """It is bound to a queue on which nobody listens any more."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id)

    assert life(db, catalog, str(task_id)).held_up is not None


def test_a_queued_task_that_no_worker_takes_says_so(
    db: Connection, epoch: int, worker: str, catalog: Catalog
):
    """Its message was lost, or dropped by a worker: there is room for it, and nothing happens."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id)
    at_first = life(db, catalog, str(task_id)).held_up
    db.execute("UPDATE attempts SET queued_at = now() - interval '1 minute'")

    found = life(db, catalog, str(task_id))

    assert at_first is None
    assert "its message may be lost" in printed(found)


def test_a_running_task_whose_worker_died_says_so(db: Connection, epoch: int, worker: str, catalog: Catalog):
    """Its state is still `running`, and nothing runs."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id)
    ran(db, task_id, 1, worker)
    in_time = life(db, catalog, str(task_id)).held_up
    db.execute("UPDATE attempts SET lease_until = now() - interval '1 s'")

    assert in_time is None
    assert "that worker is gone" in str(life(db, catalog, str(task_id)).held_up)


def test_the_bounds_that_a_caller_set_are_shown(db: Connection, epoch: int, catalog: Catalog):
    """A bound that is forgotten looks like a fault of the fleet."""
    needs = {"prompt_tokens": 20, "max_tokens": 100, "patience_s": 30.0, "max_tier": "local"}
    task_id = accepted(db, epoch, model="toll", needs=needs)

    text = printed(life(db, catalog, str(task_id)))

    assert "patience_s 30.0, max_tier local" in text
    assert "tier paid is above" in text


def test_the_beginning_of_an_id_is_enough(db: Connection, epoch: int):
    """Nobody types 36 characters."""
    task_id = accepted(db, epoch)

    assert find_task(db, str(task_id)[:8]) == task_id
    assert find_task(db, str(task_id).upper()[:15]) == task_id
    assert find_task(db, task_id.hex) == task_id


def test_a_beginning_that_fits_two_tasks_names_both(db: Connection, epoch: int):
    """Explaining or cancelling another task than the one that was meant is worse than an error."""
    pair = [UUID(f"aaaaaaaa-0000-4000-8000-00000000000{digit}") for digit in (1, 2)]
    for task_id in pair:
        accepted(db, epoch, id=task_id)

    with pytest.raises(UnknownTaskError) as caught:
        find_task(db, "aaaaaaaa")

    assert all(str(task_id) in str(caught.value) for task_id in pair)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("my task", "is not the id of a task"),
        ("", "is not the id of a task"),
        ("f" * 33, "is not the id of a task"),
        ("abc", "is too short"),
        ("00000000-0000-4000-8000-000000000000", "is no task in the ledger"),
    ],
)
def test_an_id_of_no_task_is_refused_with_the_reason(db: Connection, asked: str, says: str):
    """A traceback teaches nobody what an id looks like."""
    with pytest.raises(UnknownTaskError, match=says):
        find_task(db, asked)


def test_a_text_is_planned_and_not_enqueued(db: Connection, epoch: int, worker: str, catalog: Catalog):
    """Asking what would happen must cost nothing."""
    found = expect(db, catalog, SECRET, model="absent")

    assert [(each.model, each.verdict) for each in found.candidates] == [
        ("absent", "not now"),
        ("parrot", "takes it"),
    ]
    assert found.text == "It runs on parrot."
    assert db.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_a_text_that_fits_nowhere_is_refused_beforehand(
    db: Connection, epoch: int, worker: str, catalog: Catalog
):
    """The answer would be longer than any context."""
    found = expect(db, catalog, "x", profile="impossible", max_tokens=50_000)

    assert (found.decision, found.candidates[0].verdict) == ("refuse", "unfit")


def test_a_profile_that_does_not_exist_is_refused_as_complete_does(db: Connection, catalog: Catalog):
    """A dry run must find the mistakes that the real call would."""
    with pytest.raises(UnknownNameError):
        expect(db, catalog, "x", profile="sociel")


def named(states: list[ModelState], name: str) -> ModelState:
    return next(state for state in states if state.name == name)


def test_models_show_their_state_slots_and_record(db: Connection, epoch: int, worker: str, catalog: Catalog):
    """Which model is the problem is the first question when tasks wait or cost too much."""
    for end in (FAILED, SUCCEEDED, None):
        task_id = accepted(db, epoch)
        queued(db, epoch, task_id)
        ran(db, task_id, 1, worker, **(end or {}))
    db.execute("UPDATE attempts SET claimed_at = finished_at - interval '2 s' WHERE outcome = 'succeeded'")

    states = model_states(db, catalog)

    echo = named(states, "echo")
    assert (echo.state, echo.slots, echo.free_slots) == ("ready", 2, 1)
    assert (echo.attempts, echo.success_rate, echo.tokens_per_s) == (2, 0.5, pytest.approx(3.5))
    assert echo.last_error == "the provider sent 503"
    assert named(states, "absent").why == "no live worker on queue mlx.absent"
    assert named(states, "tiny").state == "unfit"
    toll = named(states, "toll")
    assert (toll.input_usd_per_mtok, toll.output_usd_per_mtok) == (1, 2)
    assert "the provider sent 503" in printed(states)


def test_a_full_model_is_busy(db: Connection, epoch: int, worker: str, catalog: Catalog):
    """Ready would mean that the next task runs at once."""
    for _ in range(2):
        queued(db, epoch, accepted(db, epoch))

    echo = named(model_states(db, catalog), "echo")

    assert (echo.state, echo.free_slots) == ("busy", 0)


def test_what_was_long_ago_is_not_counted(db: Connection, epoch: int, worker: str, catalog: Catalog):
    """Last week's outage says nothing about a model now."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id)
    ran(db, task_id, 1, worker, **FAILED)
    db.execute("UPDATE attempts SET finished_at = now() - %s", [timedelta(days=2)])

    echo = named(model_states(db, catalog), "echo")

    assert (echo.attempts, echo.success_rate, echo.last_error_at) == (0, None, None)


def test_a_retired_model_names_the_one_that_it_stands_for(db: Connection):
    """Profiles go on naming it, and its tasks run elsewhere."""
    states = model_states(db, load_catalog(SHIPPED_CONFIG))

    assert (named(states, "kimi").state, named(states, "kimi").successor) == ("retired", "kimi-k2.6")
    assert "stands for kimi-k2.6" in printed(states)


def test_what_has_ended_is_not_said_to_be_cancelled(db: Connection, epoch: int, worker: str):
    """Somebody relies on it that no money was spent."""
    task_id = accepted(db, epoch)
    queued(db, epoch, task_id)
    ran(db, task_id, 1, worker, **SUCCEEDED)

    found = cancel(db, read_settings({}), str(task_id), 1)

    assert (found.is_cancelled, found.text) == (False, "it has ended already: succeeded")


def test_a_cancel_that_nobody_hears_is_an_error(db: Connection, epoch: int):
    """The command would wait, and blame the dispatcher that is not there."""
    task_id = accepted(db, epoch)
    leadership.resign(db, epoch)

    with pytest.raises(NotThereError, match="no dispatcher leads"):
        cancel(db, read_settings({}), str(task_id), 1)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_database_without_a_ledger_is_an_error_that_says_what_to_do(database_url: str, name: str):
    """Whoever forgot to start the fleet sees that, not psycopg."""
    url = database_url if name == "empty" else "postgresql://127.0.0.1:1/none"

    with (
        pytest.raises(NotThereError, match="fleet up"),
        reading(read_settings({"FLEET_DATABASE_URL": url}), "test") as db,
    ):
        find_task(db, "aaaaaaaa")


def test_a_command_that_looks_cannot_write(db_url: str):
    """A snapshot that is read must stay one."""
    with reading(read_settings({"FLEET_DATABASE_URL": db_url}), "test") as db, db.transaction():
        row = db.execute("SHOW transaction_read_only").fetchone()

    assert row == ("on",)
