"""The peer: plain Celery on the same Redis, with nothing durable behind it."""

import os

from celery import Celery

from config.settings import read_settings

settings = read_settings(os.environ)
app = Celery("plain", broker=settings.broker_url, backend=settings.broker_url)
app.conf.update(task_default_queue="plain", worker_prefetch_multiplier=4)


@app.task(name="plain.echo")
def echo(text: str) -> str:
    """Do nothing."""
    return text
