"""Commands that ask for something: a completion, the end of one."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from config.settings import settings
from workers.errors import RedisUnreachableError

if TYPE_CHECKING:
    from celery.result import AsyncResult


class JsonType(click.ParamType[Any]):
    """An option whose value is JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Read it."""
        try:
            return json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)


JSON = JsonType()


@click.command(name="complete")
@click.argument("prompt", required=False)
@click.option("--profile", help="The kind of work, e.g. social; carries a default prompt.")
@click.option("--focus", help="The agent's persona, e.g. journalist; names a model.")
@click.option("--model", help="A model of the catalog, before the profile's own.")
@click.option("--agent", help="Who asks; for the books.")
@click.option("--temperature", type=float, help="From 0 to 2.")
@click.option("--max-tokens", type=int, help="The longest answer, in tokens.")
@click.option("--stop", multiple=True, help="End the answer before this text; may be repeated.")
@click.option("--seed", type=int, help="The same seed, model and host give the same answer.")
@click.option("--patience", type=float, help="Seconds to wait for a cheaper model that is busy.")
@click.option("--deadline", type=float, help="Give up after so many seconds; nothing is spent then.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 goes first, 9 last.")
@click.option("--max-tier", type=click.Choice(["local", "free", "paid"]), help="Pass over dearer models.")
@click.option("--max-cost-usd", help="Pass over models that could cost more.")
@click.option(
    "--expect", type=JSON, help="What the answer must be, as JSON: min_length, pattern, json_schema."
)
@click.option("--metadata", type=JSON, help="Kept with the task, as JSON.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait for the answer.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole chat.completion.")
def complete_command(prompt: str | None, timeout: float, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - one per option
    """Ask a model and print the answer: on a terminal, as it comes.

    A prompt of `-` is read from standard input.
    """
    from workers.tasks import complete  # noqa: PLC0415

    if prompt == "-":
        prompt = sys.stdin.read()
    asked["stop"] = list(asked["stop"]) or None
    is_watched = sys.stdout.isatty() and not as_json
    args = () if prompt is None else (prompt,)
    answer = answer_of(complete, args, asked, timeout, watch=show if is_watched else None)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    if not is_watched:
        click.echo(answer["choices"][0]["message"]["content"])
    print_books(answer)


def answer_of(
    task: Any,  # noqa: ANN401 - a Celery task
    args: tuple[Any, ...],
    asked: Mapping[str, Any],
    timeout: float,
    watch: "Callable[[AsyncResult, float], None] | None" = None,
) -> dict[str, Any]:
    """Call a task and wait for its answer.

    Args:
        task: to call.
        args: by position.
        asked: by name; None: not given.
        timeout: in seconds.
        watch: shows the answer as it comes, up to a moment by the monotonic clock.

    Raises:
        ClickException: there is none, or none yet.
    """
    from celery.exceptions import TimeoutError as NoAnswerYet  # noqa: PLC0415

    arguments = {name: value for name, value in asked.items() if value is not None}
    task_id = None
    until = time.monotonic() + timeout
    try:
        pending = task.apply_async(args, arguments)
        task_id = pending.id
        if watch is not None:
            watch(pending, until)
        return pending.get(timeout=max(0.0, until - time.monotonic()))
    except NoAnswerYet as error:
        message = f"no answer after {timeout:g} s; the task goes on: see `fleet explain {task_id}`"
        raise click.ClickException(message) from error
    except RedisUnreachableError:
        raise
    except Exception as error:
        raise click.ClickException(f"{type(error).__name__}: {error}") from error


def print_books(answer: Mapping[str, Any]) -> None:
    """Print what an answer took, beside it."""
    fleet = answer["fleet"]
    cost = "unknown" if fleet["cost_usd"] is None else f"${fleet['cost_usd']}"
    click.secho(
        f"{fleet['model']} ({fleet['tier']}), {answer['usage']['total_tokens']} tokens, {cost}, "
        f"waited {fleet['waited_s']:.1f} s, ran {fleet['ran_s']:.1f} s",
        dim=True,
        err=True,
    )


def show(pending: "AsyncResult", until: float) -> None:
    """Print an answer while it comes; from the start again, where an attempt failed."""
    from workers.errors import StreamRestartedError  # noqa: PLC0415
    from workers.streaming import stream  # noqa: PLC0415

    while True:
        try:
            for piece in stream(pending, timeout=max(0.0, until - time.monotonic())):
                click.echo(piece, nl=False)
        except StreamRestartedError as error:
            click.secho(f"\nthat was void; attempt {error.attempt} begins from the start", dim=True, err=True)
        else:
            click.echo()
            return


@click.command()
@click.argument("task")
@click.option("--timeout", type=float, default=10, show_default=True, help="Seconds to wait for the end.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def cancel(task: str, timeout: float, *, as_json: bool) -> None:
    """Cancel TASK, if it has not ended: its id, or the first 8 or more digits of it.

    Its caller gets TaskRevokedError, as after Celery's own `revoke`. A model that is answering it stops
    within a second or two. The exit status is 0 if the task was cancelled, 1 if it has ended, or if nobody
    acted in time.

    \b
    Examples:
      fleet cancel 5f1c2a9e
      fleet cancel 5f1c2a9e-8d0b-4c52-9c0e-0a8f7c3e2b11 --timeout 30
    """
    from workers.cancel import cancel as run  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415

    with reading(settings(), "cancel") as db:
        found = run(db, settings(), task, timeout)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, default=str))
    else:
        click.echo(f"task {found.task_id}: {found.text}", err=not found.is_cancelled)
    sys.exit(0 if found.is_cancelled else 1)
