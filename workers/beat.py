"""Beat: gives the fleet the tasks of schedule.yaml, as an ordinary Celery beat."""

import os
from pathlib import Path
from typing import Any

import structlog
from celery import Celery

from config.catalog import Catalog

AGENT = "schedule"
"""Who asks, in the books."""

log = structlog.get_logger()


def entries(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Write the recurring tasks that are enabled as entries of Celery's `beat_schedule`."""
    return {
        name: {
            "task": "complete",
            "schedule": recurring.every,
            "kwargs": {
                "profile": recurring.profile,
                "agent": AGENT,
                **({"prompt": recurring.prompt} if recurring.prompt else {}),
            },
            # The next one replaces it: while no model can be reached they do not pile up. Nobody waits
            # for the result; the ledger has the answer.
            "options": {"expires": recurring.every.total_seconds(), "ignore_result": True},
        }
        for name, recurring in catalog.schedule.items()
        if recurring.enabled
    }


def run_beat(app: Celery, catalog: Catalog, home: Path) -> None:
    """Run beat until SIGTERM or SIGINT; when each task was last due is kept in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    os.umask(0o077)  # the prompts of schedule.yaml are in the file
    app.conf.beat_schedule = entries(catalog)
    log.info(
        "beat",
        schedule={name: f"every {entry['schedule']}" for name, entry in app.conf.beat_schedule.items()},
    )
    app.Beat(schedule=str(home / "beat.db"), loglevel="WARNING", quiet=True, redirect_stdouts=False).run()
