"""Text that others wrote, made harmless to look at: a model's answer, an error, the name of an agent.

Jinja escapes what is markup. What is left are characters that change how the text around them is shown, or
that a terminal would act on when somebody copies them.
"""

import re
from datetime import datetime
from decimal import Decimal

from markupsafe import Markup, escape

from workers.words import duration

CONTROL = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {
    0x0D: None,
    0x7F: "\u2421",
}
"""Control characters as their pictures; a carriage return before a line's end is left out."""

UNSEEN = (
    *range(0x80, 0xA0),
    *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    *(0x200B, 0x2060, 0xFEFF),
)
"""More controls; characters that turn the direction of text, and those without a width: with both, one text
can look like another."""

VISIBLE = CONTROL | {code: f"[U+{code:04X}]" for code in UNSEEN}

MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC")
"""As `workers.words.moment` writes it."""

SOON_S = 10.0

UNITS = ("", "k", "M", "G", "T")


def visible(value: object) -> object:
    """Show what would act unseen; Jinja calls this for every value that a page prints."""
    if isinstance(value, str):
        return value.translate(VISIBLE)
    return "" if value is None else value


def when(at: datetime | None) -> Markup:
    """Write a time in UTC, which the page turns into the reader's own zone."""
    if at is None:
        return Markup("")
    return Markup('<time datetime="{}">{:%Y-%m-%d %H:%M:%S} UTC</time>').format(at.isoformat(), at)


def timed(text: str | None) -> Markup:
    """Escape a sentence, and mark the moments in it as times."""
    escaped = str(escape(visible(text or "")))
    return Markup(MOMENT.sub(r'<time datetime="\1T\2+00:00">\g<0></time>', escaped))  # noqa: S704 - see above


def money(usd: Decimal | None) -> str:
    """Write dollars to the cent, and below ten cents to two digits that count; unknown is not free."""
    if usd is None:
        return "unknown"
    if usd == 0:
        return "$0"
    if abs(usd) >= Decimal("0.1"):
        return f"${usd:,.2f}"
    return f"${Decimal(f'{usd:.1e}'):f}"


def count(number: float | None) -> str:
    """Write a count with three digits that matter: 532, 12.3 k, 4.56 M."""
    if number is None:
        return ""
    value, unit = float(number), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g}{' ' if unit else ''}{UNITS[unit]}"


def seconds(number: float | None) -> str:
    """Write how long something took: to the hundredth below ten seconds."""
    if number is None:
        return ""
    return f"{number:.2f} s" if number < SOON_S else duration(number)


def shortened(text: str, most: int) -> str:
    """Cut a text that is longer than a page should carry."""
    return text if len(text) <= most else text[:most] + " …"
