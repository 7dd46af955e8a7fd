"""Delivery: looks beforehand whether its target is there, and brings it what came of a run."""

import json
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, getproxies, proxy_bypass
from uuid import NAMESPACE_URL, uuid5

from celery import Celery
from redis import Redis

from config.catalog import Catalog
from config.schedule import Deliver
from ledger import tasks
from ledger.connect import Connection
from ledger.deliveries import Delivery
from ledger.embeddings import computed
from workers.app import DISPATCH_QUEUE
from workers.completion import response
from workers.errors import TextRemovedError
from workers.inbox import Inbox

CONNECT_S = 3.0
"""How long a webhook's host may take to let us in."""

POST_S = 10.0
"""How long a webhook may take to answer."""

ASK_S = 1.0
"""How long the Celery workers are listened to that say what they know."""

PORTS = {"http": 80, "https": 443}

Outcome = dict[str, Any]


class NotDeliveredError(Exception):
    """A target did not take an outcome; says why, without its address."""


class NoRedirects(HTTPRedirectHandler):
    """Takes a redirect for a refusal: following one would make the POST a GET."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow none."""


def objection_to(deliver: Deliver, app: Celery, redis: Redis, catalog: Catalog) -> str | None:
    """Say why an outcome could not be delivered now; None: its target is there.

    Nothing is sent to it: a webhook's host is connected to, Celery's workers are asked what they know, and of
    a Redis list the type is read.
    """
    if deliver.webhook is not None:
        return objection_to_webhook(deliver.webhook)
    if deliver.celery_task is not None:
        return objection_to_task(app, deliver.celery_task, deliver.celery_queue)
    return objection_to_list(redis, deliver.redis_list or "", catalog)


def objection_to_webhook(url: str) -> str | None:
    """Look whether somebody listens at the host, or at the proxy that leads to it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(host):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    where = (parts.hostname or host, parts.port or PORTS.get(parts.scheme, 80))
    try:
        socket.create_connection(where, timeout=CONNECT_S).close()
    except socket.gaierror:
        return f"the webhook's host {where[0]} is not known"
    except OSError as error:
        return f"nobody listens at the webhook's host {where[0]}, port {where[1]} ({error.strerror or error})"
    return None


def objection_to_task(app: Celery, task: str, queue: str) -> str | None:
    """Ask the Celery workers who knows a task and listens where it would be sent."""
    ask = app.control.inspect(timeout=ASK_S)
    registered: Mapping[str, Sequence[str]] = ask.registered() or {}
    who = [worker for worker, names in registered.items() if task in (name.split(" ")[0] for name in names)]
    if not who:
        return f"no Celery worker knows the task {task}"
    queues: Mapping[str, Sequence[Mapping[str, Any]]] = ask.active_queues() or {}
    if not any(each["name"] == queue for worker in who for each in queues.get(worker, ())):
        return f"no Celery worker that knows the task {task} listens on the queue {queue}"
    return None


def objection_to_list(redis: Redis, name: str, catalog: Catalog) -> str | None:
    """Look whether a Redis key is a list, or free, and nothing of the fleet's own."""
    inbox = Inbox(redis, DISPATCH_QUEUE)
    own = {*inbox.lists, inbox.dead_letters, *(model.queue for model in catalog.models.values())}
    if name in own or name.startswith(("_kombu", "celery-task-meta", "fleet.")):
        return f"the Redis list {name} is one of the fleet's own"
    found = redis.type(name)
    kind = found.decode() if isinstance(found, bytes) else str(found)
    return None if kind in ("none", "list") else f"the Redis key {name} is a {kind}, not a list"


def outcome_of(db: Connection, app: Celery, of: Delivery) -> Outcome:
    """Put together what is delivered: who ran when, how it ended, and the answer or the error."""
    fate = next(iter(tasks.fates(db, [of.task_id])), None)
    answer = error = None
    if fate is not None and fate.state == "succeeded" and fate.answer:
        try:
            answer = response(fate, partial(computed, db))
        except KeyError:  # somebody has removed its vectors
            removed = TextRemovedError(str(of.task_id), fate.state)
            error = {"type": type(removed).__name__, "text": str(removed)}
    elif fate is not None and fate.state == "succeeded":
        # A profile may keep no answers in the ledger; then Redis has it for a day.
        answer = app.backend.get_task_meta(str(of.task_id))["result"]
    elif fate is not None and fate.error is not None:
        error = {"type": fate.error["type"], "text": fate.error.get("text")}
    return {
        "schedule": of.name,
        "scheduled_at": of.scheduled_at.isoformat(),
        "task_id": str(of.task_id),
        "outcome": of.outcome,
        "answer": answer,
        "error": error,
    }


def deliver(to: Deliver, outcome: Outcome, app: Celery, redis: Redis) -> None:
    """Bring an outcome to its target.

    A target may get one twice, when beat dies right after; `task_id` tells that it is the same.

    Raises:
        NotDeliveredError: a webhook did not take it.
    """
    if to.webhook is not None:
        post(to.webhook, outcome)
    elif to.celery_task is not None:
        mark = str(uuid5(NAMESPACE_URL, f"deliver:{outcome['task_id']}"))
        app.send_task(
            to.celery_task,
            args=[outcome],
            queue=to.celery_queue,
            task_id=mark,
            argsrepr="()",
            ignore_result=True,
        )
    else:
        redis.rpush(to.redis_list or "", json.dumps(outcome))


def post(url: str, outcome: Outcome) -> None:
    body = json.dumps(outcome).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": outcome["task_id"]}
    request = Request(url, data=body, headers=headers)  # noqa: S310 - config allows http and https alone
    try:
        build_opener(NoRedirects()).open(request, timeout=POST_S).close()
    except HTTPError as error:
        error.close()
        raise NotDeliveredError(f"the webhook answered {error.code}") from None
    except URLError as error:
        raise NotDeliveredError(f"the webhook cannot be reached ({error.reason})") from None
    except OSError as error:
        raise NotDeliveredError(f"the webhook did not answer ({type(error).__name__})") from None
