"""The group that all commands are in."""

from typing import Any

import click

from config.errors import ConfigError
from ledger.errors import LedgerError
from workers.errors import FleetError


class Fleet(click.Group):
    """The group of all commands; what the fleet refuses becomes a sentence, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Run a command.

        Raises:
            ClickException: the command was refused.
        """
        try:
            return super().invoke(ctx)
        except (FleetError, ConfigError, LedgerError) as error:
            raise click.ClickException(str(error)) from error
