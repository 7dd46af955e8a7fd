"""What is left of limits and budgets, as numbers for bars."""

import re
from collections.abc import Mapping
from typing import NamedTuple

LEFT_OF = re.compile(r"\$?([\d.,]*\d)[^\d$]* of \$?([\d.,]*\d)")
"""How `routing` writes what is left of a limit or a budget."""


class Quota(NamedTuple):
    """What is left of a limit or a budget."""

    whose: str
    text: str
    left: float
    allowed: float


def quotas(left: Mapping[str, str]) -> list[Quota]:
    """Read the numbers out of what is said to be left, by whose it is."""
    found: list[Quota] = []
    for whose, sentence in left.items():
        for part in sentence.split(", "):
            numbers = LEFT_OF.search(part)
            if numbers:
                now, allowed = (float(number.replace(",", "")) for number in numbers.groups())
                found.append(Quota(whose, part, now, allowed))
    return found
