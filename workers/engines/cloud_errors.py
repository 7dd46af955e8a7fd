"""What a provider's error means: its status, its headers and its wording become one of our errors.

A provider's own sentence goes into no error of ours: it may quote the prompt, and some quote the key.

Source: OpenRouter, Moonshot and OpenAI on their errors and limits, and what users pasted into issues of
litellm, read 2026-11.
"""

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from routing.lessons import Scope
from workers.engines.errors import (
    BadRequestError,
    ContentRefusedError,
    ContextTooLongError,
    EngineError,
    KeyRefusedError,
    ModelGoneError,
    OverloadedError,
    PaymentRequiredError,
    QuotaSpentError,
    RateLimitedError,
    UnsupportedRequestError,
)

TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum.?(context|prompt|input)"
    r"|(prompt|input|request) is too (long|large)|exceeded model token limit|too many (input )?tokens"
    r"|input tokens exceed|reduce the length"
    r"|exceeds? the (available|maximum|model'?s?) (context|number of tokens|input)",
    re.IGNORECASE,
)
REFUSED = re.compile(
    r"content.?(filter|policy|management)|high risk|safety (system|policy)|moderation|was flagged"
    r"|flagged_input",
    re.IGNORECASE,
)
NO_MONEY = re.compile(
    r"insufficient.?(quota|credit|balance|fund)|exceeded_current_quota|billing|credit balance|is suspended",
    re.IGNORECASE,
)
LONG_SPENT = re.compile(r"per.?day|daily|per.?month|monthly|weekly", re.IGNORECASE)
KEY_SPENT = re.compile(LONG_SPENT.pattern + r"|limit exceeded", re.IGNORECASE)
OF_ACCOUNT = re.compile(r"free-models-per|your account|organi[sz]ation|per.?key|key limit", re.IGNORECASE)
UPSTREAM = re.compile(r"upstream|provider returned error|engine_overloaded|overloaded", re.IGNORECASE)
OVERLOADED = re.compile(r"engine_overloaded|currently overloaded|at capacity", re.IGNORECASE)
UNSUPPORTED = re.compile(
    r"support (tool|image|the requested|function)|(not |un)support(ed)?|allowed for this model"
    r"|invalid (temperature|top_p)",
    re.IGNORECASE,
)
TRY_AGAIN_AFTER = re.compile(r"(?:again|retry) (?:after|in) (\d+(?:\.\d+)?) ?(ms|milli|m)?", re.IGNORECASE)
NUMBER = re.compile(r"\d[\d,]*")
CODE = re.compile(r"[a-z][a-z_]{2,59}")
"""A word; a key has digits."""

LIKELY_MILLISECONDS = 1e11
"""A moment above is in milliseconds since 1970: in seconds it would be in the year 5138."""

LIKELY_A_MOMENT = 1e9

LONGEST_CONTEXT = 100_000_000
"""Tokens; larger numbers in an error's text are something else."""

DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")


@dataclass(frozen=True)
class Asked:
    """The call that was refused."""

    model: str
    """Its catalog name."""
    upstream: str | None
    needed_tokens: int
    """Of the prompt and the longest answer, as estimated."""
    context_tokens: int


class Rule(NamedTuple):
    """An error that is known by its status and its wording."""

    statuses: Container[int]
    says: re.Pattern[str] | None
    """None: whatever it says."""
    kind: type[EngineError]
    scope: Scope | None = "model"
    """None: its wording tells."""


LATER = {408, 409, 425, *range(500, 600)}
"""Statuses that say `not now`."""

RULES = (
    Rule({402, 403, 429}, NO_MONEY, PaymentRequiredError, "provider"),
    Rule({402}, None, PaymentRequiredError, "provider"),
    Rule({429}, OVERLOADED, OverloadedError),
    Rule({429}, LONG_SPENT, QuotaSpentError, None),
    Rule({429}, None, RateLimitedError, None),
    Rule({403}, KEY_SPENT, QuotaSpentError, "provider"),
    Rule({401}, None, KeyRefusedError, "provider"),
    Rule({413}, None, ContextTooLongError),
    Rule({400, 403, 422, 451}, REFUSED, ContentRefusedError),
    Rule({400, 422, *LATER}, TOO_LONG, ContextTooLongError),
    Rule({403}, None, KeyRefusedError),
    Rule({400, 404, 422}, UNSUPPORTED, UnsupportedRequestError),
    Rule({404, 410}, None, ModelGoneError),
    Rule(LATER, None, OverloadedError),
    Rule(range(1000), None, BadRequestError),
)
"""The first that fits counts."""

WITH_RESET = (PaymentRequiredError, RateLimitedError, QuotaSpentError, OverloadedError)
"""Errors that end by themselves; the others may carry the reset of a limit that they have not to do with."""


def refusal(
    asked: Asked, status: int, headers: Mapping[str, str], body: object, now: datetime
) -> EngineError:
    """Say what an error means.

    Args:
        asked: the call.
        status: of HTTP, or the code that a body carried under status 200.
        headers: of the answer.
        body: parsed where it was JSON, else its text.
        now: aware, UTC; for resets that are told as seconds from now.
    """
    error = error_in(body)
    text = body if isinstance(body, str) else json.dumps(error or body)
    rule = next(
        rule for rule in RULES if status in rule.statuses and (rule.says is None or rule.says.search(text))
    )
    detail = in_words(status, error)
    if issubclass(rule.kind, ContextTooLongError):
        return too_long(asked, text)
    if issubclass(rule.kind, BadRequestError):
        return rule.kind(asked.model, detail)
    told = {name.lower(): value for name, value in headers.items()} | headers_in(error)
    until = reset_time(told, text, now) if rule.kind in WITH_RESET else None
    return rule.kind(asked.model, detail, until, rule.scope or scope_in(text), asked.upstream)


def scope_in(text: str) -> Scope:
    """Tell whether a limit is the account's or the model's."""
    return "provider" if OF_ACCOUNT.search(text) and not UPSTREAM.search(text) else "model"


def too_long(asked: Asked, text: str) -> ContextTooLongError:
    """Say how much did not fit, in the provider's own numbers where it gave some."""
    numbers = sorted(int(number.replace(",", "")) for number in NUMBER.findall(text))
    of_tokens = [number for number in numbers if 256 <= number <= LONGEST_CONTEXT]
    if len(of_tokens) >= 2:
        return ContextTooLongError(asked.model, of_tokens[-1], of_tokens[-2])
    return ContextTooLongError(
        asked.model, max(asked.needed_tokens, asked.context_tokens), asked.context_tokens
    )


def error_in(body: object) -> Mapping[str, Any] | None:
    """Find the error in a body; None: there is none."""
    if isinstance(body, list) and body:  # Google's way
        body = body[0]
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if isinstance(error, Mapping):
        return error
    if error:
        return {"message": str(error)}
    if body.get("object") == "error" or ("message" in body and "choices" not in body):
        return body
    return None


def status_in(error: Mapping[str, Any]) -> int:
    """Read the status out of an error that came under 200; one that tells none is the service's fault."""
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if isinstance(value, int | str) and str(value).isdecimal() and 400 <= int(value) < 600:
            return int(value)
    text = json.dumps(error)
    if re.search(r"rate.?limit", text, re.IGNORECASE):
        return 429
    return 400 if TOO_LONG.search(text) or REFUSED.search(text) else 502


def headers_in(error: Mapping[str, Any] | None) -> dict[str, str]:
    """Read the headers that OpenRouter repeats inside an error."""
    metadata = (error or {}).get("metadata")
    found = metadata.get("headers") if isinstance(metadata, Mapping) else None
    return (
        {str(name).lower(): str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}
    )


def reset_time(headers: Mapping[str, str], text: str, now: datetime) -> datetime | None:
    """Read when the provider takes requests again; None: it does not say.

    Args:
        headers: their names in lower case.
        text: of the error.
        now: aware, UTC.
    """
    milliseconds = headers.get("retry-after-ms", "")
    if is_number(milliseconds):
        return now + timedelta(milliseconds=float(milliseconds))
    after = headers.get("retry-after", "")
    if is_number(after):
        return now + timedelta(seconds=float(after))
    if after:
        try:
            moment = parsedate_to_datetime(after)
        except ValueError:
            pass
        else:
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    for name in ("x-ratelimit-reset", "x-ratelimit-reset-requests", "ratelimit-reset"):
        if (told := reset_in(headers.get(name, ""), now)) is not None:
            return told
    if found := TRY_AGAIN_AFTER.search(text):
        unit_s = {"ms": 0.001, "milli": 0.001, "m": 60.0}.get((found[2] or "").lower(), 1.0)
        return now + timedelta(seconds=float(found[1]) * unit_s)
    return None


def reset_in(value: str, now: datetime) -> datetime | None:
    """Read a reset: a moment in seconds or milliseconds since 1970, seconds from now, or `1m2s`."""
    if is_number(value):
        number = float(value)
        if number >= LIKELY_MILLISECONDS:
            return datetime.fromtimestamp(number / 1000, UTC)
        return (
            datetime.fromtimestamp(number, UTC)
            if number >= LIKELY_A_MOMENT
            else now + timedelta(seconds=number)
        )
    found = DURATION.fullmatch(value.strip()) if value else None
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return now + timedelta(
        days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds
    )


def is_number(value: str) -> bool:
    return re.fullmatch(r"\d{1,16}(\.\d+)?", value.strip()) is not None


def in_words(status: int, error: Mapping[str, Any] | None) -> str:
    """Name the status, and the provider's own code where it is a word: never its sentence."""
    for key in ("type", "code", "status"):
        value = (error or {}).get(key)
        if isinstance(value, str) and CODE.fullmatch(value):
            return f"HTTP {status}, {value}"
    return f"HTTP {status}"
