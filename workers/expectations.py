"""What an answer must be: checked in what the caller asked for, and then in what a model answered."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from pydantic import ValidationError as EntryError
from referencing import Registry

from config.profiles import Expect
from workers.errors import InvalidCallError

PATTERN_S = 1.0
"""How long one regular expression may search: some of them never end."""

LONGEST_REASON = 200
"""Characters of what a validator says; the rest may repeat the whole answer."""


def check_expect(value: object) -> Expect:
    """Check the argument `expect`.

    Raises:
        InvalidCallError: it is not what it should be; says which key, and what was expected.
    """
    if not isinstance(value, Mapping):
        raise InvalidCallError(
            "expect", f"a mapping with some of {', '.join(Expect.model_fields)}, got {value!r:.60}"
        )
    try:
        expect = Expect.model_validate(dict(value))
    except EntryError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(key) for key in ("expect", *first["loc"]))
        expected = first["msg"].removeprefix("unknown key, ").removeprefix("expected ")
        raise InvalidCallError(where, expected) from None
    check_usable("expect", expect)
    return expect


def check_usable(where: str, expect: Expect) -> None:
    """Refuse a pattern or a schema that nothing could be checked against.

    Raises:
        InvalidCallError: says which, and why.
    """
    if expect.pattern is not None:
        try:
            regex.compile(expect.pattern)
        except regex.error as error:
            raise InvalidCallError(f"{where}.pattern", f"a regular expression ({error})") from None
    if expect.json_schema is not None:
        check_schema(f"{where}.json_schema", expect.json_schema)


def check_schema(where: str, schema: object) -> None:
    """Refuse what is no JSON Schema.

    Raises:
        InvalidCallError: says why.
    """
    if not isinstance(schema, Mapping):
        raise InvalidCallError(where, f"a JSON Schema as a mapping, got {type(schema).__name__}")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidCallError(where, f"a JSON Schema ({error.message:.{LONGEST_REASON}})") from None


def shortfall(expect: Expect, message: Mapping[str, Any]) -> str | None:
    """Say why an answer is not what was expected; None: it is.

    Args:
        expect: what was asked for.
        message: the assistant's; one that calls tools is an answer without text.
    """
    if message.get("tool_calls"):
        return None
    text = str(message.get("content") or "")
    if expect.non_empty and not text.strip():
        return "it is empty"
    if expect.min_length is not None and len(text) < expect.min_length:
        return f"it has {len(text)} characters, at least {expect.min_length} were expected"
    if expect.pattern is not None and not is_found(expect.pattern, text):
        return f"the pattern {expect.pattern!r:.60} is not in it"
    return None if expect.json_schema is None else misfit(expect.json_schema, text)


def is_found(pattern: str, text: str) -> bool:
    """Search for a pattern; one that takes too long counts as not found."""
    try:
        return regex.search(pattern, text, timeout=PATTERN_S) is not None
    except TimeoutError:
        return False


def misfit(schema: Mapping[str, Any], text: str) -> str | None:
    """Say why a text is not JSON that fits a schema; None: it is."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"it is not JSON ({error})"
    # An empty registry: a schema that points elsewhere is not fetched from there.
    validator = Validator(schema, registry=Registry())
    try:
        error = next(iter(validator.iter_errors(value)), None)
    except Exception as problem:  # noqa: BLE001 - an unresolvable reference, an endless recursion
        return f"the schema cannot be applied ({type(problem).__name__})"
    return None if error is None else f"{error.json_path}: {error.message:.{LONGEST_REASON}}"


def pattern_within_time(
    _: object, pattern: str, instance: object, schema: object
) -> Iterator[ValidationError]:
    """Check the keyword `pattern` in bounded time."""
    del schema
    if isinstance(instance, str) and not is_found(pattern, instance):
        yield ValidationError(f"{instance[:60]!r} does not match {pattern[:60]!r}")


Validator = extend(Draft202012Validator, {"pattern": pattern_within_time})
