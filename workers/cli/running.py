"""Commands that run the fleet, or one part of it."""

import sys
from collections.abc import Sequence

import click

from config.settings import settings

INSTALLABLE = (
    "dispatcher",
    "mlx",
    "cpu",
    "free",
    "paid",
    "local",
    "echo",
    "beat",
    "flower",
    "dashboard",
    "up",
)


@click.command()
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


@click.command()
def down() -> None:
    """End the `fleet up` of this home, and what a crash left of one.

    Workers finish the attempts that they run, for a minute at most. What waits is in Postgres and goes on
    with the next `fleet up`.
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.down import down as run  # noqa: PLC0415

    run(settings(), Console())


@click.command()
def demo() -> None:
    """Run a task of every profile through a fleet that is made for it and removed afterwards.

    It uses the starter model, which it fetches at first (93 MB), and touches no other fleet.
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.demo import demo as run  # noqa: PLC0415

    sys.exit(0 if run(Console()) else 1)


@click.command()
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


@click.command()
def dispatcher() -> None:
    """Run a dispatcher: one leads, further ones stand by."""
    from workers.app import app  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.dispatcher import run_dispatcher  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_dispatcher(settings(), catalog(), app)


@click.command()
@click.argument("lane", type=click.Choice(["mlx", "cpu", "free", "paid", "local", "echo"]))
@click.option("--slots", type=click.IntRange(1, 1024), help="Attempts that each queue runs at once.")
@click.option("--model", "models", multiple=True, help="Serve only this model; may be repeated.")
@click.option("--wait", "waits", is_flag=True, help="Where there is no model yet, wait for one.")
def worker(lane: str, slots: int | None, models: Sequence[str], *, waits: bool) -> None:
    """Run a lane worker: it takes the tasks of the models that this host can serve.

    mlx runs MLX models on a Mac's GPU; cpu runs GGUF files; free and paid ask the providers whose keys are
    in the environment; local asks servers of yours that need no key; echo repeats the prompt. Queues follow
    from the models: one for each local model, one for each tier of a provider.

    \b
    Examples:
      fleet worker cpu --slots 2
      fleet worker mlx --wait                    also before `fleet pull qwen3-mlx`
      OPENROUTER_API_KEY=... fleet worker free
      MOONSHOT_API_KEY=... fleet worker paid --slots 50
    """
    from workers.lanes import run_worker  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_worker(lane, slots=slots, only=models, waits=waits)


@click.command()
def beat() -> None:
    """Run beat: it enqueues the tasks of schedule.yaml when they are due, and delivers their answers.

    Any number may run, on any hosts with the same schedule.yaml: each task is enqueued once. Files that
    change are read again; `fleet schedule` shows what there is.
    """
    from workers.app import app  # noqa: PLC0415
    from workers.beat import run_beat  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_beat(app)


@click.command()
@click.option(
    "--hash-password", is_flag=True, help="Ask for a password, print its hash, and do nothing else."
)
def dashboard(*, hash_password: bool) -> None:
    """Run the dashboard: what the fleet did, what it cost, what needs attention.

    It listens on 127.0.0.1, port 5550, and asks nobody there who they are. FLEET_DASHBOARD_ADDRESS lets
    others in, who need the password of FLEET_DASHBOARD_PASSWORD_HASH, or come through a proxy that names
    them in FLEET_DASHBOARD_USER_HEADER.

    \b
    Examples:
      fleet dashboard
      FLEET_DASHBOARD_PORT=8080 fleet dashboard
      fleet dashboard --hash-password
    """
    if hash_password:
        from dashboard.door import hashed  # noqa: PLC0415

        click.echo(hashed(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)))
        return
    from dashboard.server import run_dashboard  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.logs import log_to_stderr  # noqa: PLC0415

    log_to_stderr(settings().log_level)
    run_dashboard(settings(), catalog())


@click.command()
def flower() -> None:
    """Run Flower: tasks and workers as pages, for the user `fleet`.

    The password is FLEET_FLOWER_PASSWORD, or else what the first start wrote into `flower.password` in the
    fleet's home. It listens on this machine only, at port 5555, unless FLEET_FLOWER_ADDRESS and
    FLEET_FLOWER_PORT say otherwise.
    """
    from workers.app import app  # noqa: PLC0415
    from workers.flower import run_flower  # noqa: PLC0415

    run_flower(app, settings())


@click.command()
@click.argument("role", type=click.Choice(INSTALLABLE))
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print what would be written, and do nothing.")
def install(role: str, *, is_dry_run: bool) -> None:
    """Let systemd or launchd keep a part of the fleet running on this host.

    ROLE is the kind of a worker, `dispatcher`, `beat`, `flower`, `dashboard`, or `up` for all that this host
    can run. On Linux it becomes a unit of your own systemd, on a Mac a launch agent, which begins at login;
    an older one is replaced. It gets the FLEET_ variables that are set now, and a worker the keys of its own
    providers, in a file that only you can read.

    \b
    Examples:
      export FLEET_REDIS_URL=rediss://... FLEET_DATABASE_URL=postgresql://...
      fleet install cpu
      fleet install mlx --dry-run
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.catalog import catalog  # noqa: PLC0415
    from workers.install.role import install as run  # noqa: PLC0415

    run(role, settings(), catalog(), Console(), is_dry_run=is_dry_run)
