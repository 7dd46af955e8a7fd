"""The command that says what was spent."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import cast, get_args

import click

from config.periods import read_period
from config.settings import settings


def moment(text: str) -> datetime:
    """Read a period before now, such as 7d, or a day in UTC, such as 2026-11-01.

    Raises:
        BadParameter: it is neither.
    """
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - read_period(text)
    except (ValueError, OverflowError):
        message = f"expected a period such as 7d or a day such as 2026-11-01, got {text!r}"
        raise click.BadParameter(message) from None


def groups(text: str) -> Sequence[str]:
    """Read what to group by.

    Raises:
        BadParameter: one is not known.
    """
    from ledger.spend import By  # noqa: PLC0415

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in get_args(By):
            message = f"expected some of {', '.join(get_args(By))} with commas between them, got {name!r}"
            raise click.BadParameter(message)
    return names


@click.command()
@click.option("--since", default="7d", metavar="7d|DAY", help="How far back, or from which day on (UTC).")
@click.option("--until", metavar="DAY", help="The first day that does not count any more (UTC).")
@click.option(
    "--by", default="model", metavar="NAMES", help="profile, model, tier, agent, outcome, day, hour."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print it for a spreadsheet.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def spend(*, since: str, until: str | None, by: str, as_csv: bool, as_json: bool) -> None:
    """Add up what the fleet used: attempts, tokens, dollars, and what was saved.

    An attempt counts when it has ended, in the hour (UTC) in which it did; --since begins with a whole hour.
    The last two columns say what the answers would have cost on the primary of profiles.yaml, at its price
    of the day, and how much less was spent. Attempts of unknown price are counted and not added: * marks
    them.

    \b
    Examples:
      fleet spend                                     the last seven days, by model
      fleet spend --since 30d --by day,tier
      fleet spend --since 2026-10-01 --until 2026-11-01 --by agent --csv > october.csv
      fleet spend --since 1d --json | jq -r .total.cost_usd
    """
    from rich.console import Console  # noqa: PLC0415

    from ledger.spend import THE_END, By  # noqa: PLC0415
    from workers import spend as module  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415

    end = moment(until) if until else THE_END
    with reading(settings(), "spend") as db:
        found = module.report(db, catalog(), moment(since), end, by=cast("Sequence[By]", groups(by)))
    if as_json:
        click.echo(json.dumps(module.as_json(found), indent=2, default=str))
    elif as_csv:
        module.write_csv(found, sys.stdout)
    else:
        module.show(Console(), found)
