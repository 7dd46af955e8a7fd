"""Which lanes this host can serve, and the Celery worker that serves one."""

import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import click

from config.catalog import Catalog
from config.models import Model
from workers.catalog import catalog

ENGINE_OF = {"cpu": "llama", "echo": "echo"}
"""The engine behind each kind of worker."""

DEFAULT_SLOTS = {"cpu": 4, "echo": 8}


@dataclass(frozen=True)
class LaneReport:
    """What a kind of worker could do on this host."""

    lane: str
    models: tuple[Model, ...]
    """Those that it can serve."""
    missing: tuple[tuple[str, str], ...]
    """(model, why not, and what to do) for the others."""


def report(lane: str, using: Catalog) -> LaneReport:
    """Look which of a lane's models are on this host; offline, in milliseconds."""
    models = [
        model for model in using.models.values() if model.engine == ENGINE_OF[lane] and model.kind == "chat"
    ]
    why_not = {model.name: why_absent(model) for model in models}
    return LaneReport(
        lane,
        tuple(model for model in models if why_not[model.name] is None),
        tuple((name, why) for name, why in why_not.items() if why is not None),
    )


def why_absent(model: Model) -> str | None:
    """Say why a model cannot be served here; None: it can."""
    if model.engine == "echo":
        return None
    from workers.model_files import absence_of  # noqa: PLC0415 - looks into caches, which echo has not

    return absence_of(model)


def run_worker(lane: str, *, slots: int | None, only: Sequence[str]) -> None:
    """Run a Celery worker on the queues of the models that this host has, until it is told to stop.

    Raises:
        ClickException: there is no model to serve; says what is missing.
    """
    found = report(lane, catalog())
    models = [model for model in found.models if not only or model.name in only]
    if not models:
        missing = "\n  ".join(f"{name}: {why}" for name, why in found.missing)
        message = f"no model to serve on this host\n  {missing}"
        raise click.ClickException(message)

    from celery.platforms import SecurityWarning  # noqa: PLC0415 - the check above answers without Celery

    from workers.app import app  # noqa: PLC0415
    from workers.presence import make_lane_worker  # noqa: PLC0415

    make_lane_worker(app)
    # What Celery fears of root is pickle, which this app does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    each = slots or DEFAULT_SLOTS[lane]
    app.worker_main(
        [
            "--quiet",  # no banner
            "worker",
            f"--queues={','.join(model.queue for model in models)}",
            "--pool=threads",
            f"--concurrency={each * len(models)}",
            f"--hostname={lane}-{os.getpid()}@{socket.gethostname()}",
            "--loglevel=WARNING",
            "--without-gossip",
            "--without-mingle",
        ]
    )
