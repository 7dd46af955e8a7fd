"""What an answer must be: refused where it cannot be checked, and checked."""

import time
from typing import Any

import pytest

from config.profiles import Expect
from workers.errors import InvalidCallError
from workers.expectations import check_expect, shortfall


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("long", "expect must be a mapping with some of non_empty, min_length, pattern, json_schema"),
        (
            {"min_lenght": 3},
            "expect.min_lenght must be one of non_empty, min_length, pattern, json_schema; did you mean",
        ),
        ({"min_length": 0}, "expect.min_length must be a number above 0"),
        ({"pattern": "("}, "expect.pattern must be a regular expression"),
        ({"json_schema": {"type": "objekt"}}, "expect.json_schema must be a JSON Schema"),
        ({"json_schema": "object"}, "expect.json_schema must be keys with values"),
    ],
    ids=str,
)
def test_an_expectation_that_cannot_be_checked_is_refused_in_the_caller(expect: Any, said: str):
    """After the answer has been paid for is too late."""
    with pytest.raises(InvalidCallError) as refused:
        check_expect(expect)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("expect", "text", "why"),
    [
        ({}, " \n", "it is empty"),
        ({"non_empty": False}, "", None),
        ({"min_length": 5}, "four", "it has 4 characters, at least 5 were expected"),
        ({"min_length": 5}, "fives", None),
        ({"pattern": r"\bPASS\b"}, "COMPASS", r"the pattern '\\bPASS\\b' is not in it"),
        ({"pattern": r"\bPASS\b"}, "all PASS", None),
        ({"json_schema": {"type": "array"}}, "[1]", None),
        ({"json_schema": {"type": "array"}}, "{}", "$: {} is not of type 'array'"),
        ({"json_schema": {"items": {"pattern": "^a"}}}, '["ab", "b"]', "$[1]: 'b' does not match '^a'"),
        ({"json_schema": {"$ref": "https://example.com/x"}}, "1", "the schema cannot be applied"),
    ],
    ids=str,
)
def test_an_answer_is_compared_with_what_was_expected(expect: dict[str, Any], text: str, why: str | None):
    """Each key by itself, and a reason that tells the caller what to change."""
    found = shortfall(Expect.model_validate(expect), {"role": "assistant", "content": text})

    assert (found or "").startswith(why or "")
    assert (found is None) == (why is None)


def test_an_answer_that_calls_a_tool_has_no_text_to_compare():
    """The caller wanted the call."""
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}

    assert shortfall(Expect(min_length=100), message) is None


@pytest.mark.parametrize(
    "expect", [Expect(pattern="(a+)+$"), Expect(json_schema={"type": "string", "pattern": "(a+)+$"})]
)
def test_a_pattern_that_never_ends_does_not_hold_the_worker(expect: Expect):
    """One bad regular expression must not stop every task of the worker."""
    began = time.monotonic()

    found = shortfall(expect, {"content": '"' + "a" * 60 + '!"'})

    assert found is not None
    assert time.monotonic() - began < 10
