"""What a caller may say about how tokens are chosen."""

from collections.abc import Mapping
from typing import Any

import pytest

from config.catalog import Catalog
from workers.attempt import engine_request
from workers.call import Call, check_call
from workers.errors import InvalidCallError


def a_call(catalog: Catalog, **arguments: Any) -> Call:
    return check_call(catalog, "Hello.", **arguments)


def test_what_is_said_reaches_the_engine(catalog: Catalog):
    """Between caller and engine it is JSON in a message and in the ledger, whose keys are text."""
    said = {
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repeat_penalty": 1.1,
    }
    call = a_call(
        catalog, **said, logit_bias={7: -100}, logprobs=True, top_logprobs=2, grammar='root ::= "a"'
    )

    request = engine_request(catalog.model("echo"), call.request)

    assert {name: getattr(request, name) for name in said} == said
    assert request.logit_bias == {7: -100}
    assert request.top_logprobs == 2
    assert request.grammar == 'root ::= "a"'


def test_what_is_not_said_is_the_engines(catalog: Catalog):
    """A row of the ledger for every task need not repeat defaults."""
    call = a_call(catalog, logprobs=False)

    assert "sampling" not in call.request
    assert engine_request(catalog.model("echo"), call.request).top_k == 40


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        ({"grammar": 'root ::= "a"'}, ["grammar"]),
        ({"logprobs": True}, ["logprobs"]),
        ({"logit_bias": {"7": 1}}, ["logit_bias"]),
        ({"response_format": {"type": "json_object"}}, ["json_schema"]),
        ({"top_k": 3, "presence_penalty": 1}, []),
    ],
)
def test_only_a_model_that_can_is_asked(catalog: Catalog, said: Mapping[str, Any], needed: list[str]):
    """A provider that does not know `grammar` would leave it out, and the answer would be anything."""
    assert a_call(catalog, **said).needs["requires"] == needed


@pytest.mark.parametrize(
    ("said", "argument"),
    [
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": "much"}, "frequency_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"logit_bias": [7]}, "logit_bias"),
        ({"logit_bias": {"yes": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 101}}, "logit_bias[7]"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"grammar": "yes or no"}, "grammar"),
        ({"grammar": 'root ::= "a"', "response_format": {"type": "json_object"}}, "grammar"),
    ],
)
def test_what_no_model_could_follow_is_refused_at_once(
    catalog: Catalog, said: Mapping[str, Any], argument: str
):
    """The caller is there to mend it; hours later it is not."""
    with pytest.raises(InvalidCallError) as refused:
        a_call(catalog, **said)

    assert refused.value.argument == argument
