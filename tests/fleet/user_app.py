"""A Celery app as a user of the fleet may have one: its tasks are linked to completions."""

import os
from typing import Any

from celery import Celery
from redis import Redis

from config.settings import read_settings

settings = read_settings(os.environ)
app = Celery("user", broker=settings.broker_url, backend=settings.broker_url)


@app.task(name="user.collect")
def collect(completion: dict[str, Any]) -> str:
    """Keep the text of a completion where a test finds it."""
    text = completion["choices"][0]["message"]["content"]
    Redis.from_url(settings.redis_url).lpush("seen", f"collected {text}")
    return text


@app.task(name="user.on_error")
def on_error(task_id: str) -> None:
    """Keep the id of a task that failed."""
    Redis.from_url(settings.redis_url).lpush("seen", f"failed {task_id}")


@app.task(name="user.join")
def join(completions: list[dict[str, Any]]) -> str:
    """Join what the tasks of a chord said."""
    return " + ".join(each["choices"][0]["message"]["content"] for each in completions)
