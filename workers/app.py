"""The Celery app: Celery is the transport, Postgres is the truth."""

from celery import Celery

from config.settings import Settings, settings

DISPATCH_QUEUE = "dispatch"

RESULT_EXPIRES_S = 24 * 3600

RETRY_BRIEFLY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
"""Attempts and seconds between them; redis-py itself tries each of them several times."""


def make_app(using: Settings) -> Celery:
    """Make the app for a broker.

    It does not become Celery's current app: a program that imports `complete` has its own.
    """
    app = Celery("fleet", set_as_current=False, include=["workers.tasks"])
    app.conf.update(
        broker_url=using.broker_url,
        result_backend=f"workers.results:LedgerBackedRedis+{using.result_url}",
        result_expires=RESULT_EXPIRES_S,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        # The claim in Postgres is the acknowledgement. Late acks would only add kombu's trouble with
        # messages that are unacknowledged when Redis goes away.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        # So kombu need not write every message into Redis a second time and remove it again: the brain
        # publishes again what no worker has claimed. Prefetch limits hold as before.
        broker_transport_options={"ack_emulation": False},
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # A Redis that answers with an error (its disk is full, it loads its log) is waited for like one that
        # is away; otherwise the worker would end.
        broker_channel_error_retry=True,
        # Who calls while Redis is away hears of it in seconds; who runs gets its result from the ledger.
        result_backend_transport_options={"retry_policy": RETRY_BRIEFLY},
        task_publish_retry_policy=RETRY_BRIEFLY,
        timezone="UTC",
    )
    return app


app = make_app(settings())
