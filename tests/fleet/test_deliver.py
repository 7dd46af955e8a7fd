"""Answers of recurring tasks, delivered to a user's own Celery task."""

from collections.abc import Callable, Sequence

import pytest
from celery import Celery
from redis import Redis

from config.schedule import Deliver
from config.settings import Settings
from workers.catalog import catalog
from workers.schedule.delivery import deliver, objection_to

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("users_worker")]


@pytest.fixture(scope="module")
def users_worker(app: Celery) -> None:
    """Wait until the Celery worker of the user's own app answers; it starts beside the fleet's."""
    for _ in range(60):
        if any("user.on_error" in " ".join(names) for names in (registered(app) or {}).values()):
            return
    pytest.fail("the user's Celery worker did not come within a minute")


def registered(app: Celery) -> dict[str, list[str]] | None:
    return app.control.inspect(timeout=1).registered()


@pytest.mark.parametrize(
    ("task", "queue", "why"),
    [
        ("user.on_error", "celery", None),
        ("user.on_eror", "celery", "no Celery worker knows the task user.on_eror"),
        (
            "user.on_error",
            "elsewhere",
            "no Celery worker that knows the task user.on_error listens on the queue elsewhere",
        ),
    ],
)
def test_a_celery_task_is_a_target_if_somebody_runs_it(
    app: Celery, fleet: Settings, task: str, queue: str, why: str | None
):
    """A message that no worker takes waits in Redis for ever, and looks delivered."""
    target = Deliver(celery_task=task, celery_queue=queue)

    with Redis.from_url(fleet.redis_url) as redis:
        assert objection_to(target, app, redis, catalog()) == why


def test_a_celery_task_gets_the_outcome(app: Celery, fleet: Settings, seen: Callable[[str], Sequence[str]]):
    """It is how a Celery program of the user's goes on with an answer."""
    outcome = {
        "schedule": "digest",
        "task_id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "outcome": "succeeded",
    }

    with Redis.from_url(fleet.redis_url) as redis:
        deliver(Deliver(celery_task="user.on_error"), outcome, app, redis)

    assert len(seen("digest")) == 1
