"""Which lanes this host can serve, and the Celery worker that serves one."""

import os
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click
import structlog

from config.catalog import Catalog
from config.models import Model
from config.settings import has_key
from workers.catalog import catalog
from workers.engines.errors import ModelUnavailableError
from workers.garbage import collect_rarely

ENGINE_OF = {"mlx": "mlx", "cpu": "llama", "echo": "echo"}
"""The engine behind each kind of worker that runs models itself."""

EMBEDDING_ENGINES = ("llama", "cloud", "echo")
"""Those that make embeddings."""

CLOUD_LANES = ("free", "paid", "local")
"""Workers that ask a provider, by the tier of its models; `local` is a server of yours."""

LANES = (*ENGINE_OF, *CLOUD_LANES)

DEFAULT_SLOTS = {"mlx": 4, "cpu": 4, "echo": 16, "free": 16, "paid": 16, "local": 4}
"""Attempts at once, for each queue."""

LOOK_AGAIN_S = 10.0
"""How often a worker that waits looks whether a model has come."""

log = structlog.get_logger()


@dataclass(frozen=True)
class LaneReport:
    """What a kind of worker could do on this host."""

    lane: str
    models: tuple[Model, ...]
    """Those that it can serve."""
    missing: tuple[tuple[str, str], ...]
    """(model, why not, and what to do) for the others."""


def lane_of(model: Model) -> str | None:
    """Tell which kind of worker serves a model; None: this version has none."""
    if model.kind == "embedding" and model.engine not in EMBEDDING_ENGINES:
        return None
    if model.engine == "cloud":
        return model.tier
    return next((lane for lane, engine in ENGINE_OF.items() if engine == model.engine), None)


def report(lane: str, using: Catalog, has_key: Callable[[str], bool] = has_key) -> LaneReport:
    """Look which of a lane's models this host can serve; offline, in milliseconds."""
    today = datetime.now(UTC).date()
    models = [
        model
        for model in using.models.values()
        if lane_of(model) == lane and not (model.engine == "cloud" and model.is_retired(today))
    ]
    why_not = {model.name: why_absent(model, using, has_key) for model in models}
    return LaneReport(
        lane,
        tuple(model for model in models if why_not[model.name] is None),
        tuple((name, why) for name, why in why_not.items() if why is not None),
    )


def why_absent(model: Model, using: Catalog, has_key: Callable[[str], bool]) -> str | None:
    """Say why a model cannot be served here; None: it can."""
    if model.engine == "echo":
        return None
    if model.engine == "cloud":
        key = using.providers[model.provider or ""].api_key_env
        return None if key is None or has_key(key) else f"{key} is not set"
    from workers.availability import absence_of  # noqa: PLC0415 - looks into caches, which echo has not

    return absence_of(model)


def proven_models(models: Sequence[Model]) -> tuple[list[Model], list[tuple[str, str]]]:
    """Try out each model that llama.cpp runs, where that was not done yet; the others need no proof.

    Returns:
        Those that run, and for the others (model, why not, and what to do).
    """
    running: list[Model] = []
    refused: list[tuple[str, str]] = []
    for model in models:
        if model.engine == "llama" and model.kind == "chat":
            from workers.engines.llama_check import prove_model  # noqa: PLC0415 - only these workers need it

            try:
                prove_model(model)
            except ModelUnavailableError as error:
                click.echo(f"not served: {error}", err=True)
                refused.append((model.name, error.why))
                continue
        running.append(model)
    return running, refused


def servable(lane: str, only: Sequence[str]) -> list[Model]:
    """List the models that a worker of this host can serve.

    Raises:
        ClickException: there is none; says what is missing.
    """
    found = report(lane, catalog())
    named = [model for model in found.models if not only or model.name in only]
    models, refused = proven_models(named)
    if not models:
        absent = (*found.missing, *refused)
        missing = "\n  ".join(f"{name}: {why}" for name, why in absent if not only or name in only)
        message = f"no model to serve on this host\n  {missing}"
        raise click.ClickException(message)
    return models


def wait_for_models(lane: str, only: Sequence[str]) -> list[Model]:
    """Look again every now and then until there is a model to serve; say once what is missing."""
    said = ""
    while True:
        try:
            return servable(lane, only)
        except click.ClickException as error:
            if error.message != said:
                log.info("waiting", lane=lane, why=error.message)
            said = error.message
        time.sleep(LOOK_AGAIN_S)


def run_worker(lane: str, *, slots: int | None, only: Sequence[str], waits: bool = False) -> None:
    """Run a Celery worker on the queues of the models that this host can serve, until it is told to stop.

    Args:
        waits: look again every now and then, instead of failing, where there is no model to serve.

    Raises:
        ClickException: there is no model to serve; says what is missing.
    """
    if only and lane in CLOUD_LANES:
        message = "the models of a provider share its queue; leave out --model"
        raise click.ClickException(message)
    models = wait_for_models(lane, only) if waits else servable(lane, only)

    from celery.platforms import SecurityWarning  # noqa: PLC0415 - the check above answers without Celery

    from workers.app import app  # noqa: PLC0415
    from workers.presence import make_lane_worker  # noqa: PLC0415

    collect_rarely()
    make_lane_worker(app)
    # What Celery fears of root is pickle, which this app does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    each = slots or DEFAULT_SLOTS[lane]
    queues = dict.fromkeys(model.queue for model in models)
    name = f"{lane}-{os.getpid()}@{socket.gethostname()}"
    own = [name] if any(model.tier == "local" for model in models) else []
    app.worker_main(
        [
            "--quiet",  # no banner
            "worker",
            f"--queues={','.join([*queues, *own])}",
            "--pool=threads",
            f"--concurrency={each * len(queues) + len(own)}",
            f"--hostname={name}",
            "--loglevel=WARNING",
            "--without-gossip",
            "--without-mingle",
        ]
    )
