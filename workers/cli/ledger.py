"""Commands that look after the ledger."""

import click

from config.settings import settings


@click.group()
def db() -> None:
    """Look after the ledger's database."""


@db.command()
def migrate() -> None:
    """Bring the ledger to the schema of this version; safe to run again, and on a live ledger."""
    from ledger.migrate import migrate as run  # noqa: PLC0415

    click.echo(f"the ledger is at schema {run(settings().database_url)}")
