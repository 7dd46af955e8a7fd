"""Commands that look after the ledger, and that read it out."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from config.settings import settings
from workers.cli.replaying import span

if TYPE_CHECKING:
    from ledger.export import Table
    from workers.export import Format


@click.group()
def db() -> None:
    """Look after the ledger's database."""


@db.command()
def migrate() -> None:
    """Bring the ledger to the schema of this version; safe to run again, and on a live ledger."""
    from ledger.migrate import migrate as run  # noqa: PLC0415

    click.echo(f"the ledger is at schema {run(settings().database_url)}")


@db.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), required=True)
def backup(output: Path) -> None:
    """Write the whole ledger into a file, as it is at this moment, while the fleet works.

    Its prompts and answers are in it; it is readable by you alone. Postgres's `pg_dump` makes it: the
    newer of the one on the PATH and that of the embedded Postgres.

    \b
    Example:
      fleet db backup -o fleet.dump
    """
    from workers.backup import back_up  # noqa: PLC0415

    click.echo(f"{output}: {back_up(settings(), output) / 1e6:,.1f} MB")


@db.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(source: Path) -> None:
    """Make an empty database what the backup SOURCE says, and bring it to the schema of this version.

    One that has a ledger is left alone. The fleet must not run meanwhile.

    \b
    Example:
      fleet db restore fleet.dump
    """
    from workers.backup import restore as run  # noqa: PLC0415

    click.echo(f"restored; the ledger is at schema {run(settings(), source)}")


@db.command()
def roles() -> None:
    """Make the roles `fleet_worker` and `fleet_reader`, and give them their rights.

    A user of a worker's host who has the first cannot read answers, nor the prompts of tasks that have ended;
    one who has the second can only read. To be called as the owner of the ledger who may make roles; safe to
    run again. `fleet db migrate` keeps their rights up to date.

    \b
    Examples:
      fleet db roles && psql -c "CREATE ROLE mac LOGIN PASSWORD '...' IN ROLE fleet_worker"
    """
    from psycopg.errors import InsufficientPrivilege  # noqa: PLC0415

    from ledger.roles import READER, WORKER, make  # noqa: PLC0415
    from workers.errors import NotThereError  # noqa: PLC0415
    from workers.reading import writing  # noqa: PLC0415

    try:
        with writing(settings(), "roles") as connection:
            make(connection)
    except InsufficientPrivilege as refusal:
        raise NotThereError(
            f"this user may not make the roles ({refusal.diag.message_primary})",
            "set FLEET_DATABASE_URL to the user that owns the tables, and let it make roles: "
            "ALTER ROLE ... CREATEROLE",
        ) from refusal
    click.echo(
        f"{WORKER} and {READER} have their rights; make users with them: CREATE ROLE ... IN ROLE {WORKER}"
    )


@click.command()
@click.argument("table", type=click.Choice(["tasks", "attempts"]))
@click.option("--since", default="30d", show_default=True, metavar="SPAN", help="How far back: 12h, 30d.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "parquet"]),
    help="Default: what the file's name ends with.",
)
@click.option("--with-text", is_flag=True, help="Also prompts, answers and the words of errors.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), required=True)
def export(table: "Table", since: str, form: "Format | None", output: Path, *, with_text: bool) -> None:
    """Write the ledger's tasks or attempts into a file, for other tools.

    JSON lines have an object for each row; Parquet needs the extra `parquet`. Dollars are exact in both. The
    file is there whole or not at all, readable by you alone. A million attempts are about 630 MB
    of JSON and 50 MB of Parquet.

    \b
    Examples:
      fleet export attempts -o attempts.jsonl
      fleet export tasks --since 7d --with-text -o tasks.parquet
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from workers.export import export as run  # noqa: PLC0415

    chosen: Format = form or ("parquet" if output.suffix == ".parquet" else "jsonl")
    shown = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("rows")
        count = run(
            settings().database_url,
            table,
            output,
            form=chosen,
            since=datetime.now(UTC) - span(since),
            with_text=with_text,
            on_progress=lambda count: progress.update(bar, completed=count),
        )
    click.echo(f"{count:,} {table} in {output}")


@db.command()
@click.option(
    "--check", "is_check", is_flag=True, help="Change nothing; the exit status is 1 if some differ."
)
def recount(*, is_check: bool) -> None:
    """Add up all attempts anew, and correct the sums that pages and `fleet spend` read.

    The sums follow every attempt by themselves. This is for a ledger that was written to by hand or by an
    older version. It is safe on a live ledger, and reads every attempt: a minute for some ten millions.
    """
    from ledger import rollup  # noqa: PLC0415
    from ledger.connect import connect  # noqa: PLC0415
    from workers.words import dollars  # noqa: PLC0415

    with connect(settings().database_url, name="recount") as ledger:
        found = rollup.differences(ledger) if is_check else rollup.recount(ledger)
    for each in found:
        what = f"{each.model}, {each.profile or 'no profile'}, {each.agent}, {each.outcome}"
        click.echo(
            f"{each.at:%Y-%m-%d %H:%M} UTC  {what}: {each.attempts:+} attempts, {dollars(each.cost_usd)}"
        )
    if not found:
        click.echo("the sums equal the attempts")
    elif is_check:
        click.echo(f"{len(found)} sums differ; correct them with `fleet db recount`")
        sys.exit(1)
    else:
        click.echo(f"corrected {len(found)} sums")
