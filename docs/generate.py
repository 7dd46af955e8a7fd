"""Writes the reference page of the command line out of the commands: `python -m docs.generate`."""
# ruff: noqa: INP001 - docs/ is a folder of pages

from collections.abc import Iterator
from pathlib import Path

import click

from workers.cli import main

PAGE = Path(__file__).parent / "reference/cli.md"

WIDTH = 92

BEGIN = """\
# The command line

What `--help` says of each command. This page is written by `python -m docs.generate`; a test fails when
it is out of date.

Every command reads the [settings](settings.md) from the environment. The exit status is 0 if the command
did what it was asked, 1 if the fleet refused, 2 if the command line is wrong; `fleet doctor` has its own.
"""


def commands(command: click.Command, above: click.Context | None = None) -> Iterator[click.Context]:
    """List a command and all below it, each with the words that call it."""
    name = command.name if above else "fleet"
    context = click.Context(
        command,
        parent=above,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                yield from commands(found, context)


def page() -> str:
    """Write the page."""
    parts = [
        f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n" for context in commands(main)
    ]
    return "\n".join([BEGIN, *parts])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
