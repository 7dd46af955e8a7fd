"""The commands about recurring tasks."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from config.settings import settings

if TYPE_CHECKING:
    from ledger.connect import Connection


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
@click.pass_context
def schedule(context: click.Context, *, as_json: bool) -> None:
    """List the recurring tasks of schedule.yaml: when, how it went, what it costs.

    Printed are the next run, the last one and how it ended, tokens and dollars of the last 24 hours and 30
    days, and what a month costs at the cost of a run so far (before there is one: at the most that a run can
    cost). Below: what is paused and why, what failed, what costs more than $1 a month on a paid model and
    what would be free, and entries that ask the same.

    Beat, which `fleet up` runs, lets them run. A run is `succeeded`, `failed`, `expired` (no model in time),
    `cancelled`, `skipped` (the one before it has not ended, or the budget of the day is spent) or `refused`
    (it would have been in vain, and nothing was spent).

    \b
    Examples:
      fleet schedule
      fleet schedule --json | jq '.[] | select(.past.paused_at != null) | .name'
      fleet schedule run heartbeat               now, whatever the clock says
      fleet schedule pause exploration --why "its target is gone"
      fleet schedule import jobs.yaml            cron jobs of agents, as entries of schedule.yaml
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console  # noqa: PLC0415

    from workers.catalog import catalog  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415
    from workers.schedule import listing  # noqa: PLC0415

    with reading(settings(), "schedule") as db:
        found = listing.lines(db, catalog())
    if as_json:
        click.echo(json.dumps(listing.as_json(found), indent=2, default=str))
    else:
        listing.show(Console(), found, catalog().schedule)


@schedule.command()
@click.argument("name")
def run(name: str) -> None:
    """Let a recurring task run now, also one that is paused or not enabled.

    Its target is looked for and its budget counts, as always; the run before it is not waited for. The ids of
    its tasks are printed.

    \b
    Examples:
      fleet schedule run heartbeat
      fleet explain $(fleet schedule run digest)
    """
    from redis import Redis  # noqa: PLC0415

    from workers.app import app  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415
    from workers.schedule import control  # noqa: PLC0415

    log_to_stderr("warning")
    with writing("schedule run") as db, Redis.from_url(settings().redis_url) as redis:
        for task_id in control.run_now(db, redis, app, catalog(), name):
            click.echo(task_id)


@schedule.command()
@click.argument("name")
@click.option("--why", help="What `fleet schedule` shows as the reason.")
def pause(name: str, why: str | None) -> None:
    """Let a recurring task run no more, until `resume`; what runs now goes on.

    A task that failed `pause_after` times in a row is paused by itself.

    \b
    Examples:
      fleet schedule pause digest
      fleet schedule pause digest --why "nobody reads it in August"
    """
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.schedule import control  # noqa: PLC0415

    with writing("schedule pause") as db:
        is_new = control.pause(db, catalog(), name, why)
    click.echo(f"{name} is paused" if is_new else f"{name} was paused already")


@schedule.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let a paused recurring task run again, from its next time on; its failures are forgotten.

    \b
    Example:
      fleet schedule resume digest
    """
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.schedule import control  # noqa: PLC0415

    with writing("schedule resume") as db:
        was_paused = control.resume(db, catalog(), name)
    click.echo(f"{name} runs again" if was_paused else f"{name} was not paused")


@schedule.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_file(file: Path) -> None:
    """Write a FILE of cron jobs as entries of schedule.yaml.

    FILE is a YAML list `jobs`, each with `name`, `cron` (six fields, seconds first) or `every: "15m"`,
    `text`, `agent`, `session`, `delivery`, `best_effort_deliver`, `enabled` and perhaps `model`. An agent
    becomes the focus and the profile of its name, a model what models.yaml calls it. The entries go to
    standard output, to be put below `schedule:`; nothing is changed. What could not be carried over is listed
    on standard error; the exit status is 1 if a job was left out.

    \b
    Examples:
      fleet schedule import jobs.yaml
      fleet schedule import jobs.yaml >> config/schedule.yaml
    """
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.schedule import importing  # noqa: PLC0415

    found = importing.read_jobs(file, catalog())
    click.echo(importing.as_yaml(found), nl=False)
    for job, remark in found.remarks:
        click.echo(f"{job}: {remark}", err=True)
    for job, why in found.left_out:
        click.echo(f"{job}: left out: {why}", err=True)
    if found.left_out:
        raise SystemExit(1)


@contextmanager
def writing(name: str) -> Generator["Connection"]:
    """Open the ledger to write, beside Redis.

    Raises:
        NotThereError: a server does not answer, or the ledger is not of this version.
    """
    from kombu.exceptions import OperationalError  # noqa: PLC0415
    from redis import RedisError  # noqa: PLC0415

    from workers import reading  # noqa: PLC0415

    try:
        with reading.writing(settings(), name) as db:
            yield db
    except (RedisError, OperationalError) as error:
        raise reading.silent("Redis", settings().redis_url, error) from error
