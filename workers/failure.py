"""An error as the ledger keeps it, and back: the shape that Celery's JSON results have."""

from collections.abc import Mapping
from typing import Any

from routing.lessons import Lesson, as_stored


def stored(error: BaseException) -> dict[str, Any]:
    """Turn an error into JSON; `text` is what a person reads, `lesson` what the brain does."""
    kind = type(error)
    lesson = getattr(error, "lesson", None)
    return {
        "type": kind.__qualname__,
        "module": kind.__module__,
        "args": [argument if is_json(argument) else str(argument) for argument in error.args],
        "text": printable(str(error) or kind.__qualname__),
        **({"lesson": as_stored(lesson)} if isinstance(lesson, Lesson) else {}),
    }


def in_celery_form(error: dict[str, Any]) -> dict[str, Any]:
    """Turn a stored error into what Celery rebuilds an exception from."""
    return {"exc_type": error["type"], "exc_message": error["args"], "exc_module": error["module"]}


def is_json(value: object) -> bool:
    if isinstance(value, list):
        return all(is_json(part) for part in value)
    return value is None or isinstance(value, str | int | float | bool)


def all_printable(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Make all text in a JSON value storable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): all_printable(part) for key, part in value.items()}
    return [all_printable(part) for part in value] if isinstance(value, list | tuple) else value


def printable(text: str) -> str:
    """Make text storable: Postgres keeps neither NUL nor lone surrogates."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()
