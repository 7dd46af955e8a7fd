"""Commands for a Mac that runs MLX models."""

import json
import sys

import click


@click.command()
@click.argument("lane", type=click.Choice(["mlx"]))
@click.option("--model", "name", help="A model of the catalog, if not its first of this engine.")
@click.option("--quick", "is_quick", is_flag=True, help="Shorter answers; the speeds mean less.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def selftest(lane: str, name: str | None, *, is_quick: bool, as_json: bool) -> None:
    """Try on this host what the MLX engine promises, with a real model, and print a report.

    Needs no fleet and no network, takes some minutes, and wants the memory of a second worker. The exit
    status is 0 if everything held. What the report of a Mac adds to what was tried elsewhere is on the page
    "MLX on a Mac" of the documentation.

    \b
    Examples:
      fleet selftest mlx
      fleet selftest mlx --json > report.json
    """
    from rich.console import Console  # noqa: PLC0415

    from workers import selftest as module  # noqa: PLC0415
    from workers.catalog import catalog  # noqa: PLC0415

    report = module.run(catalog(), lane, name, Console(stderr=True), is_quick=is_quick)
    if as_json:
        click.echo(json.dumps(module.as_json(report), indent=2))
    else:
        module.show(Console(), report)
    sys.exit(0 if report.has_held else 1)
