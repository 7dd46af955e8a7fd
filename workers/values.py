"""One value of an argument, checked: each function gives it back, or says what was expected."""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from config.errors import closest_of
from workers.errors import InvalidCallError

LONGEST_WORD = 30
"""Characters; what is longer is repeated in no error."""


def storable(where: str, text: str) -> str:
    """Refuse text that Postgres cannot keep."""
    if "\x00" in text:
        raise InvalidCallError(where, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidCallError(where, "text that is valid Unicode, got a lone surrogate") from error
    return text


def is_deep(value: object, levels: int) -> bool:
    """Tell whether a JSON value is nested deeper than so many levels: what walks it calls itself for each."""
    level = [value]
    for _ in range(levels):
        level = [
            part
            for each in level
            if isinstance(each, dict | list | tuple)
            for part in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, dict | list | tuple) for each in level)


def is_nested_deeper(levels: int, written: bytes, value: object) -> bool:
    """Tell it of JSON with its text beside it: to count brackets is quick, and nearly always enough."""
    return written.count(b"[") + written.count(b"{") > levels and is_deep(value, levels)


def name(argument: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidCallError(argument, f"a name, got {kind(value)}")
    return storable(argument, value)


def whole(argument: str, value: object, least: int, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidCallError(argument, f"a whole number from {least} to {most}, got {said(value)}")
    return value


def real(argument: str, value: object, least: float, most: float, *, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidCallError(argument, f"a number from {least} to {most}, got {said(value)}")
    return float(value)


def one_of(argument: str, value: object, known: Sequence[str]) -> str | None:
    if value is None:
        return None
    if value not in known:
        raise InvalidCallError(
            argument, f"one of {', '.join(known)}, got {said(value)}{closest(value, known)}"
        )
    return str(value)


def money(argument: str, value: object) -> Decimal | None:
    """Read dollars from a number or a string; a float counts as what it prints."""
    if value is None:
        return None
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        usd = Decimal(-1)
    if isinstance(value, bool) or not usd.is_finite() or usd < 0:
        raise InvalidCallError(argument, f"dollars, as a number or a string, got {said(value)}")
    return usd


def closest(value: object, known: Sequence[str]) -> str:
    meant = closest_of(str(value), known)
    return f"; did you mean {meant!r}?" if meant else ""


def said(value: object) -> str:
    """Repeat a value that is a number or a short word; of others, which may be a prompt, name the type."""
    is_short = isinstance(value, str) and len(value) <= LONGEST_WORD and " " not in value
    return repr(value) if is_short or isinstance(value, int | float | Decimal) else kind(value)


def kind(value: object) -> str:
    """Name the type of a value without repeating the value, which may be a prompt."""
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
