"""Commands that look and change nothing."""

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from config.settings import settings


@click.command()
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


@click.command()
@click.argument(
    "role",
    type=click.Choice(["dispatcher", "beat", "cpu", "free", "paid", "local", "echo", "flower", "dashboard"]),
)
def ping(role: str) -> None:
    """Ask the processes of a ROLE on this host whether they live, and print their names.

    They answer themselves: a worker from its event loop, dispatcher and beat for the loop in which they
    decide. The exit status is 1 if none answers within 3 s, or one stands still; health checks of containers
    use it.

    \b
    Examples:
      fleet ping dispatcher
      fleet ping cpu || echo "no worker for local models"
    """
    from workers import ping as module  # noqa: PLC0415
    from workers.app import app  # noqa: PLC0415

    for name in module.ping(app, settings(), role):
        click.echo(name)


@click.command()
@click.argument("task", metavar="[TASK | TEXT]", required=False)
@click.option("--profile", help="Explain a TEXT instead: what would happen to it with this profile.")
@click.option("--focus", help="The same with a focus.")
@click.option("--model", help="The same with a model of the catalog.")
@click.option("--agent", help="The same for an agent, who may have a budget.")
@click.option("--max-tokens", type=int, help="The same with an answer of so many tokens at most.")
@click.option("--patience", type=float, help="The same with so many seconds to wait for a cheaper model.")
@click.option(
    "--max-tier", type=click.Choice(["local", "free", "paid"]), help="The same without dearer models."
)
@click.option("--max-cost-usd", help="The same without models that could cost more.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def explain(task: str | None, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - one per option
    """Say why a task ran where it ran, or why it waits.

    TASK is a task's id, or the first 8 or more digits of it. Printed are what was asked, each attempt with
    the models passed over and why, waits, tokens, cost and the end; for a task that is held also what would
    be decided now. The prompt is never printed.

    With --profile or any other option of this kind: what would happen now to a task with this TEXT (`-`
    reads it from standard input; without one, the profile's default prompt is meant). Nothing is enqueued.

    \b
    Examples:
      fleet explain 5f1c2a9e
      fleet explain 5f1c2a9e --json | jq .now.candidates
      fleet explain --profile social "Write a post about today's release."
      fleet explain --model kimi --max-tokens 4000 - < prompt.txt
      fleet explain --profile analysis --max-cost-usd 0.01 "Why did the queue grow?"
    """
    from rich.console import Console  # noqa: PLC0415

    from workers import explain as module  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.life import life  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415

    options = {name: value for name, value in asked.items() if value is not None}
    if task is None and not options:
        message = "give the id of a task, or a text with --profile, --focus or --model"
        raise click.UsageError(message)
    with reading(settings(), "explain") as db:
        if options:
            text = sys.stdin.read() if task == "-" else task
            expected = module.expect(db, catalog(), text, **options)
            if as_json:
                click.echo(json.dumps(asdict(expected), indent=2, default=str))
            else:
                module.show_forecast(Console(), expected)
            return
        found = life(db, catalog(), task or "")
    if as_json:
        click.echo(json.dumps(module.life_as_json(found), indent=2, default=str))
    else:
        module.show_life(Console(), found)


@click.command()
@click.option("--check", "is_check", is_flag=True, help="Look only whether this host can run the local ones.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def models(*, is_check: bool, as_json: bool) -> None:
    """List the models of the catalog: which are ready, and why the others are not.

    Each is asked as a plan would ask it, about a small task. A model is ready, busy (it may take a task
    later) or unfit (it never can). How it did is read from the attempts of the last day.

    With --check, neither the fleet nor the network is asked: it says of each local model whether this host
    has what it takes (the hardware, the library, the whole model, the memory), and what mends it if not. The
    exit status is 0 if one is ready, else 1.

    \b
    Examples:
      fleet models
      fleet models --check
      fleet models --json | jq '.[] | select(.state == "ready") | .name'
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.catalog import catalog  # noqa: PLC0415

    if is_check:
        from workers import check  # noqa: PLC0415

        seen = check.look(catalog())
        if as_json:
            click.echo(json.dumps([asdict(each) for each in seen], indent=2))
        else:
            check.show(Console(), seen)
        sys.exit(0 if any(each.state == "ready" for each in seen) else 1)

    from workers import model_states as module  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415

    with reading(settings(), "models") as db:
        found = module.model_states(db, catalog())
    if as_json:
        click.echo(json.dumps(module.as_json(found), indent=2, default=str))
    else:
        module.show(Console(), found)


@click.command()
@click.option("--quiet", "is_quiet", is_flag=True, help="Print only what is not ok.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def doctor(*, is_quiet: bool, as_json: bool) -> None:
    """Find out what is wrong here, and what to do about it.

    Looked at are Redis, Postgres, the processes of the fleet, the catalog, the providers' keys (whether they
    are set, nothing more), the models on this host, its disks, memory, ports and packages. Nothing is
    changed, nothing outside the fleet is asked, and a server that does not answer is waited for 3 seconds.

    A finding is ok, a note (worth knowing), a warning (mend it before it costs something) or an error (work
    is lost or cannot be done). The exit status is 0 if there is nothing worse than notes, 1 if there are
    warnings, 2 if there are errors. A fleet that is not up is a note.

    \b
    Examples:
      fleet doctor
      fleet doctor --quiet || mail -s "fleet" me@example.com
      fleet doctor --json | jq '.findings[] | select(.level == "error")'
    """
    from rich.console import Console  # noqa: PLC0415

    from workers.doctor import report  # noqa: PLC0415
    from workers.doctor.examination import examine  # noqa: PLC0415
    from workers.doctor.finding import EXIT_STATUS, worst  # noqa: PLC0415

    found = examine()
    if as_json:
        click.echo(json.dumps(report.as_json(found), indent=2))
    else:
        report.show(Console(), found, is_quiet=is_quiet)
    sys.exit(EXIT_STATUS[worst(found)])
