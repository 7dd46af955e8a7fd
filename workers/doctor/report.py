"""The findings, for a person and for a program."""

import socket
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from workers.doctor.finding import EXIT_STATUS, LEVELS, Finding, Level, counted, worst
from workers.screen import fleet_version

STYLES: dict[Level, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}

TITLES = {
    "settings": "Settings",
    "redis": "Redis",
    "postgres": "Postgres",
    "fleet": "Fleet",
    "catalog": "Catalog",
    "keys": "Keys",
    "models": "Models on this host",
    "host": "This host",
}


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    level = worst(findings)
    return {
        "level": level,
        "exit_status": EXIT_STATUS[level],
        "host": socket.gethostname(),
        "version": fleet_version(),
        "findings": [asdict(finding) for finding in findings],
    }


def show(console: Console, findings: Sequence[Finding], *, is_quiet: bool) -> None:
    """Print the findings part by part; quiet: only those that are not ok."""
    shown = [finding for finding in findings if not (is_quiet and finding.level == "ok")]
    for part, of_part in groupby(shown, key=lambda finding: finding.part):
        console.print(f"[bold]{TITLES[part]}[/]")
        table = Table.grid(padding=(0, 2), pad_edge=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in of_part:
            table.add_row(Text(finding.level, STYLES[finding.level]), in_words(finding))
        console.print(table)
        console.print()
    console.print(summary(findings), highlight=False)


def in_words(finding: Finding) -> Text:
    """Write what was found, and below it what to do."""
    found = Text(finding.found)
    return found.append(f"\n-> {finding.what_to_do}", "dim") if finding.what_to_do else found


def summary(findings: Sequence[Finding]) -> Text:
    """Count the findings of each level, the gravest first."""
    parts: list[Text] = []
    for level in LEVELS[::-1]:
        count = sum(finding.level == level for finding in findings)
        if count:
            parts.append(Text(f"{count} ok" if level == "ok" else counted(count, level), STYLES[level]))
    return Text(", ").join(parts)
