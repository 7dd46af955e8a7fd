"""`fleet`: the command line."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from config.errors import ConfigError
from config.settings import settings
from workers.errors import FleetError, RedisUnreachableError


class Fleet(click.Group):
    """The group of all commands; what the fleet refuses becomes a sentence, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Run a command.

        Raises:
            ClickException: the command was refused.
        """
        try:
            return super().invoke(ctx)
        except (FleetError, ConfigError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Fleet, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aria-fleet", prog_name="fleet")
def main() -> None:
    """Run language-model work in the background, on the cheapest model that will do.

    \b
    Start here:
      fleet up                                   run everything on this host
      fleet complete "Hello" --profile social    ask, wait, print the answer
      fleet status                               who is there, what waits
    """


@main.command(name="complete")
@click.argument("prompt", required=False)
@click.option("--profile", help="The kind of work, e.g. social; carries a default prompt.")
@click.option("--focus", help="The agent's persona, e.g. journalist; names a model.")
@click.option("--model", help="A model of the catalog, before the profile's own.")
@click.option("--agent", help="Who asks; for the books.")
@click.option("--temperature", type=float, help="From 0 to 2.")
@click.option("--max-tokens", type=int, help="The longest answer, in tokens.")
@click.option("--stop", multiple=True, help="End the answer before this text; may be repeated.")
@click.option("--seed", type=int, help="The same seed, model and host give the same answer.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait for the answer.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole chat.completion.")
def complete_command(prompt: str | None, timeout: float, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - one per option
    """Ask a model, wait, and print the answer. A prompt of `-` is read from standard input."""
    from celery.exceptions import TimeoutError as NoAnswerYet  # noqa: PLC0415

    from workers.tasks import complete  # noqa: PLC0415

    if prompt == "-":
        prompt = sys.stdin.read()
    arguments = {name: value for name, value in asked.items() if value not in (None, ())}
    if "stop" in arguments:
        arguments["stop"] = list(arguments["stop"])
    task_id = None
    try:
        pending = complete.apply_async((prompt,) if prompt is not None else (), arguments)
        task_id = pending.id
        answer = pending.get(timeout=timeout)
    except NoAnswerYet as error:
        message = f"no answer after {timeout:g} s; the task {task_id} goes on: see `fleet status`"
        raise click.ClickException(message) from error
    except RedisUnreachableError:
        raise
    except Exception as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from error
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(answer["choices"][0]["message"]["content"])
    fleet = answer["fleet"]
    cost = "unknown" if fleet["cost_usd"] is None else f"${fleet['cost_usd']}"
    click.secho(
        f"{fleet['model']} ({fleet['tier']}), {answer['usage']['total_tokens']} tokens, {cost}, "
        f"waited {fleet['waited_s']:.1f} s, ran {fleet['ran_s']:.1f} s",
        dim=True,
        err=True,
    )


@main.command()
def dispatcher() -> None:
    """Run a dispatcher: one leads, further ones stand by."""
    from workers.app import app  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.dispatcher import run_dispatcher  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_dispatcher(settings(), catalog(), app)


@main.command()
@click.argument("lane", type=click.Choice(["cpu", "echo"]))
@click.option("--slots", type=click.IntRange(1, 64), help="Attempts that each model runs at once.")
@click.option("--model", "models", multiple=True, help="Serve only this model; may be repeated.")
def worker(lane: str, slots: int | None, models: Sequence[str]) -> None:
    """Run a lane worker: it takes the tasks of the models that this host has."""
    from workers.lanes import run_worker  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_worker(lane, slots=slots, only=models)


@main.command()
def up() -> None:
    """Run everything that this host can: services, dispatcher, workers, beat and Flower.

    Redis and Postgres are started here unless FLEET_REDIS_URL and FLEET_DATABASE_URL name yours. The
    first screen says what runs where, and what is missing and why. Ctrl-C ends all of it; so does
    `fleet down` in another terminal. A process that ends by itself is started again.

    \b
    Examples:
      fleet up
      FLEET_HOME=~/try fleet up                  another fleet, with data of its own
      nohup fleet up > fleet.log &               without a terminal
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.catalog import catalog  # noqa: PLC0415
    from workers.up import up as run  # noqa: PLC0415

    run(settings(), catalog(), Console())


@main.command()
def down() -> None:
    """End the `fleet up` of this home, and what a crash left of one.

    Workers finish the attempts that they run, for a minute at most. What waits is in Postgres and goes on
    with the next `fleet up`.
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.down import down as run  # noqa: PLC0415

    run(settings(), Console())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def status(*, as_json: bool) -> None:
    """Show who leads, who works and what waits.

    The exit status is 0 if a dispatcher leads and a worker is there, else 1.

    \b
    Examples:
      fleet status
      fleet status --json | jq .tasks.held
      until fleet status > /dev/null 2>&1; do sleep 1; done     wait until a fleet is up
    """
    from rich.console import Console  # noqa: PLC0415

    from workers import status as module  # noqa: PLC0415

    found = module.status(settings())
    if as_json:
        click.echo(json.dumps(module.as_json(found), indent=2, default=str))
    else:
        module.show(Console(), found)
    sys.exit(0 if found.is_serving else 1)


@main.command()
@click.argument("model")
def pull(model: str) -> None:
    """Fetch the file of a local MODEL, from where the catalog says that it comes.

    Nothing is fetched that is on this host already. A running worker serves a new model after its next
    start.

    \b
    Examples:
      fleet pull smollm2                         the starter, 93 MB
      FLEET_MODELS=/data/models fleet pull qwen3-local
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.catalog import catalog  # noqa: PLC0415
    from workers.pull import pull as run  # noqa: PLC0415

    run(catalog().model(model), Console())


@main.command()
def demo() -> None:
    """Run a task of every profile through a fleet that is made for it and removed afterwards.

    It uses the starter model, which it fetches at first (93 MB), and touches no other fleet.
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.demo import demo as run  # noqa: PLC0415

    sys.exit(0 if run(Console()) else 1)


@main.command()
def beat() -> None:
    """Run beat: it enqueues the tasks of schedule.yaml when they are due. Run one in a whole fleet."""
    from workers.app import app  # noqa: PLC0415
    from workers.beat import run_beat  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_beat(app, catalog(), settings().home)


@main.command()
def flower() -> None:
    """Run Flower: tasks and workers as pages, for the user `fleet`, on this machine only.

    The password is FLEET_FLOWER_PASSWORD, or else what the first start wrote into `flower.password` in the
    fleet's home. The port is FLEET_FLOWER_PORT, or 5555.
    """
    from workers.app import app  # noqa: PLC0415
    from workers.flower import run_flower  # noqa: PLC0415

    run_flower(app, settings())


@main.group()
def db() -> None:
    """Look after the ledger's database."""


@db.command()
def migrate() -> None:
    """Bring the ledger to the schema of this version; safe to run again, and on a live ledger."""
    from ledger.migrate import migrate as run  # noqa: PLC0415

    click.echo(f"the ledger is at schema {run(settings().database_url)}")


if __name__ == "__main__":
    main()
