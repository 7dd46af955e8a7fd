"""How a benchmark tells what it measured: a table for people, one line of JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One published number."""

    key: str
    value: float
    goal: float
    unit: str
    is_ceiling: bool = False
    """True: the value should be at most the goal; False: at least."""

    @property
    def is_reached(self) -> bool:
        """Whether the goal is met."""
        return self.value <= self.goal if self.is_ceiling else self.value >= self.goal


def report(title: str, rows: Sequence[Sequence[str]], figures: Sequence[Figure]) -> None:
    """Print what was measured, then the figures; the JSON is the last line.

    Args:
        title: what was compared.
        rows: (what, value) of each measurement, as text.
        figures: those that an issue names.
    """
    console = Console()
    measured = Table(title=title, title_justify="left")
    measured.add_column("measured")
    measured.add_column("value", justify="right")
    for row in rows:
        measured.add_row(*row)
    console.print(measured)
    goals = Table()
    for heading in ("figure", "value", "goal", "reached"):
        goals.add_column(heading)
    for figure in figures:
        goal = f"{'at most' if figure.is_ceiling else 'at least'} {figure.goal:g} {figure.unit}"
        goals.add_row(
            figure.key, f"{figure.value:.3g} {figure.unit}", goal, "yes" if figure.is_reached else "no"
        )
    console.print(goals)
    values = {
        figure.key: {"value": figure.value, "goal": figure.goal, "unit": figure.unit} for figure in figures
    }
    print(json.dumps({"figures": values}))
