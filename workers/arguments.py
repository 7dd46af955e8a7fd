"""What the arguments of all tasks have in common: their names, their size, `metadata`."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import signature
from typing import Any

from workers.errors import InvalidCallError, PayloadTooLargeError
from workers.values import closest, is_deep, kind, storable

LARGEST_METADATA = 8192

MOST_LEVELS = 100
"""Of lists and mappings in each other."""


def check_names(check: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that a task does not have.

    Args:
        check: takes the catalog, what may be given by position, then what may be given by name.
        args: by position.
        kwargs: by name.

    Raises:
        InvalidCallError: one is unknown, or there twice.
    """
    known = names_of(check)
    first = known[0]
    if len(args) > 1:
        raise InvalidCallError("arguments", f"one positional argument, the {first}; got {len(args)}")
    for argument in kwargs:
        if argument not in known:
            listed = ", ".join(known)
            raise InvalidCallError(argument, f"one of the arguments {listed}{closest(argument, known)}")
    if args and first in kwargs:
        raise InvalidCallError(first, f"one {first}, got two")


@cache
def names_of(check: Callable[..., object]) -> tuple[str, ...]:
    """Name the arguments of a task. To look at a signature takes as long as a tenth of an enqueue."""
    return tuple(name for name in signature(check).parameters if name != "catalog")


def check_size(arguments: object, limit_bytes: int) -> None:
    """Refuse a payload that Redis and Postgres should not carry.

    Raises:
        PayloadTooLargeError: it is larger than the limit.
        InvalidCallError: it holds what JSON cannot, or is nested too deep.
    """
    try:
        size = len(json.dumps(arguments))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidCallError("arguments", f"values that JSON can hold ({error})") from error
    if size > limit_bytes:
        raise PayloadTooLargeError(size, limit_bytes)
    if is_deep(arguments, MOST_LEVELS):
        raise InvalidCallError("arguments", f"nested at most {MOST_LEVELS} levels deep")


def checked_metadata(value: object) -> dict[str, Any] | None:
    """Check what the caller wants to find again beside the task."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidCallError("metadata", f"a mapping with names as keys, got {kind(value)}")
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvalidCallError("metadata", f"values that JSON can hold ({error})") from error
    if len(text) > LARGEST_METADATA:
        raise InvalidCallError("metadata", f"at most {LARGEST_METADATA} characters of JSON, got {len(text)}")
    storable("metadata", text.replace("\\u0000", "\x00"))
    return dict(value)
