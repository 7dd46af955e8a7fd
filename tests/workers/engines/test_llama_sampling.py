"""How a real model's tokens are chosen: biases, penalties, chances, schemas and grammars."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from openai.types.chat.chat_completion import ChoiceLogprobs

from tests.workers.engines.test_llama import a_request, answer, at_once
from workers.engines.errors import BadRequestError, UnsupportedRequestError
from workers.engines.llama import LlamaEngine

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
PARIS = "What is the capital of France?"


def token_of(engine: LlamaEngine, text: str) -> int:
    (token,) = engine._loaded.model.tokenize(text, adds_bos=False)
    return token


def test_a_bias_bans_a_word(engine: LlamaEngine):
    """Whoever classifies with one token forbids the others."""
    banned = answer(engine, a_request(PARIS, logit_bias={token_of(engine, " Paris"): -100.0}))

    assert " Paris" in answer(engine, a_request(PARIS)).text
    assert " Paris" not in banned.text


def test_a_bias_for_a_token_that_the_model_does_not_have_changes_nothing(engine: LlamaEngine):
    """The numbers are one model's own, and a fallback has others."""
    assert (
        answer(engine, a_request(PARIS, logit_bias={10**9: 5.0})).text
        == answer(engine, a_request(PARIS)).text
    )


@pytest.mark.parametrize(
    "penalty", [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repeat_penalty": 1.5}]
)
def test_a_penalty_makes_an_answer_repeat_itself_less(engine: LlamaEngine, penalty: dict[str, Any]):
    """Small models fall into loops; this is what takes them out."""
    text = "List animals, one a line."
    plain, penalised = at_once(
        engine, [a_request(text, max_tokens=60), a_request(text, max_tokens=60, **penalty)]
    )

    assert variety(penalised.text) > variety(plain.text)


def variety(text: str) -> float:
    words = text.split()
    return len(set(words)) / len(words)


def test_chances_are_told_as_openai_does(engine: LlamaEngine):
    """A classifier's certainty is in them, and clients read OpenAI's shape."""
    completion = answer(engine, a_request(PARIS, top_logprobs=3))

    told = ChoiceLogprobs.model_validate(completion.logprobs).content or []
    assert b"".join(bytes(each.bytes or []) for each in told).decode() == completion.text
    assert len(told) == completion.completion_tokens
    for each in told:
        assert each.logprob == max(other.logprob for other in each.top_logprobs)  # greedy: the likeliest
        assert len(each.top_logprobs) == 3
        assert sum(math.exp(other.logprob) for other in each.top_logprobs) <= 1.0001


def test_chances_are_the_models_own(engine: LlamaEngine):
    """A bias says what to choose, not what the model holds to be likely."""
    token = token_of(engine, " Paris")
    request = a_request(PARIS, top_logprobs=0, logit_bias={token: 100.0}, max_tokens=1)
    completion = answer(engine, request)

    (told,) = (completion.logprobs or {})["content"]
    assert told["token"] == " Paris"
    assert told["logprob"] < -1
    assert told["top_logprobs"] == []


def test_tokens_that_a_stop_string_takes_are_not_told(engine: LlamaEngine):
    """Chances of words that the caller never sees would not fit to the text."""
    completion = answer(engine, a_request(PARIS, top_logprobs=0, stop=(" of France",)))

    told = (completion.logprobs or {})["content"]
    assert "".join(each["token"] for each in told) == completion.text == "The capital"


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.2, "seed": 4}])
def test_an_answer_in_a_schema_is_valid(engine: LlamaEngine, settings: dict[str, Any]):
    """Programs read it; a small model alone gets it wrong every few times."""
    texts = [
        completion.text
        for completion in at_once(
            engine,
            [
                a_request(f"Give the city {city} as JSON.", response_format=FORM, max_tokens=200, **settings)
                for city in ("Paris", "Rome", "東京", "Oslo")
            ],
        )
    ]

    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


def test_a_grammar_binds_its_own_answer_only(engine: LlamaEngine):
    """Answers in a grammar and free ones are made in the same steps."""
    free = a_request(PARIS)
    alone = answer(engine, free).text
    asked = [
        a_request("Is water wet?", grammar='root ::= "yes" | "no"'),
        free,
        a_request("Hi.", response_format=FORM),
    ]

    bound, together, schema = at_once(engine, asked)

    assert bound.text in ("yes", "no")
    assert bound.finish_reason == "stop"
    assert together.text[:20] == alone[:20]
    assert schema.text.startswith("{")


def test_any_object_is_valid_where_only_json_is_asked(engine: LlamaEngine):
    """OpenAI's `json_object`."""
    form = {"type": "json_object"}
    request = a_request(
        "Tell me about Paris as JSON.", response_format=form, temperature=0.8, seed=3, max_tokens=300
    )

    assert isinstance(json.loads(answer(engine, request).text), dict)


@pytest.mark.parametrize(
    "grammar", ['root ::= "a" other', 'root ::= root "a"', "root", "root ::= <[99999999]>"]
)
def test_a_grammar_that_is_none_is_refused(engine: LlamaEngine, grammar: str):
    """llama.cpp would end the whole process over some of these, and all answers in it."""
    with ThreadPoolExecutor(1) as callers:
        other = callers.submit(answer, engine, a_request(PARIS))
        with pytest.raises(BadRequestError, match="grammar"):
            answer(engine, a_request("Hello.", grammar=grammar))

        assert other.result().text.endswith("Paris.")


def test_a_schema_that_no_grammar_can_follow_is_left_to_other_models(engine: LlamaEngine):
    """It is this engine that cannot; a provider may."""
    schema = {"type": "string", "pattern": "starts nowhere"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    with pytest.raises(UnsupportedRequestError, match="schema"):
        answer(engine, a_request("Hello.", response_format=form))
