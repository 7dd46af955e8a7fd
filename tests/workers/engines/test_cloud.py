"""The fault table: what a call of a misbehaving provider becomes, and how many requests it took."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from config.models import Model, Timeouts
from config.models import Provider as Entry
from tests.provider import FAULTS, Provider
from tests.provider.dialects import Name
from workers.engines.base import Completion, Request
from workers.engines.cloud import load
from workers.engines.cloud_watch import Watch
from workers.engines.cloud_wire import LostError, Wire
from workers.engines.errors import (
    CancelledError,
    ConnectionLostError,
    ContentRefusedError,
    ContextTooLongError,
    CutAnswerError,
    EngineError,
    KeyRefusedError,
    MalformedAnswerError,
    ModelGoneError,
    OverloadedError,
    PaymentRequiredError,
    ProviderError,
    QuotaSpentError,
    RateLimitedError,
    SilentError,
    UnsupportedRequestError,
)

KEY = "sk-made-up-0123456789"
PROMPT = "violets are blue and so is this prompt"
ASKED = Request([{"role": "user", "content": PROMPT}], max_tokens=100, temperature=0.5)
QUICK = Timeouts(first_token_s=0.4, between_tokens_s=0.3, total_s=5)
PATIENT = Timeouts(first_token_s=30, between_tokens_s=30, total_s=60)


class Case(NamedTuple):
    fault: str
    dialect: Name
    error: type[EngineError]
    scope: str | None = None
    until_s: float | None = None
    """From now, approximately; None: the provider told nothing."""


OPENAI, OPENROUTER, MOONSHOT = "openai", "openrouter", "moonshot"

CASES = (
    Case("rate_limited", OPENAI, RateLimitedError, "model", 2),
    Case("rate_limited", OPENROUTER, RateLimitedError, "provider", 2),
    Case("rate_limited", MOONSHOT, RateLimitedError, "provider", 2),
    Case("rate_limited_by_reset", OPENROUTER, RateLimitedError, "provider", 2),
    Case("rate_limited_without_a_word", OPENROUTER, RateLimitedError, "provider"),
    Case("rate_limited_without_a_word", OPENAI, RateLimitedError, "model"),
    Case("rate_limited_upstream", OPENROUTER, RateLimitedError, "model"),
    Case("day_spent", OPENROUTER, QuotaSpentError, "provider", 5 * 3600),
    Case("no_money", OPENAI, PaymentRequiredError, "provider"),
    Case("no_money", OPENROUTER, PaymentRequiredError, "provider"),
    Case("no_money", MOONSHOT, PaymentRequiredError, "provider"),
    Case("no_model", OPENAI, ModelGoneError, "model"),
    Case("no_model", OPENROUTER, ModelGoneError, "model"),
    Case("no_model", MOONSHOT, ModelGoneError, "model"),
    Case("wrong_key", MOONSHOT, KeyRefusedError, "provider"),
    Case("broken", OPENROUTER, OverloadedError, "model"),
    Case("unavailable", MOONSHOT, OverloadedError, "model"),
    Case("long_refusal", OPENROUTER, RateLimitedError, "provider", 2),
    Case("reset", OPENAI, ConnectionLostError, "model"),
    Case("silent", OPENAI, SilentError, "model"),
    Case("only_comments", OPENROUTER, SilentError, "model"),
    Case("late", OPENAI, SilentError, "model"),
    Case("drip", OPENAI, SilentError, "model"),
    Case("stall", OPENAI, SilentError, "model"),
    Case("cut", OPENAI, CutAnswerError, "model"),
    Case("cut_hard", OPENAI, CutAnswerError, "model"),
    Case("cut_but_done", OPENAI, CutAnswerError, "model"),
    Case("malformed", OPENAI, MalformedAnswerError, "model"),
    Case("nested", OPENAI, MalformedAnswerError, "model"),
    Case("very_nested", OPENAI, MalformedAnswerError, "model"),
    Case("web_page", OPENAI, MalformedAnswerError, "model"),
    Case("error_with_200", OPENROUTER, RateLimitedError, "provider", 2),
    Case("error_in_the_stream", OPENROUTER, OverloadedError, "model"),
    Case("too_long", OPENAI, ContextTooLongError),
    Case("too_long", OPENROUTER, ContextTooLongError),
    Case("too_long", MOONSHOT, ContextTooLongError),
    Case("fixed_temperature", MOONSHOT, UnsupportedRequestError),
    Case("no_tools", OPENROUTER, UnsupportedRequestError),
    Case("refused_content", OPENAI, ContentRefusedError),
    Case("refused_content", OPENROUTER, ContentRefusedError),
    Case("refused_content", MOONSHOT, ContentRefusedError),
    Case("filtered", OPENAI, ContentRefusedError),
)

MAY_HAVE_COST = {
    "reset", "silent", "only_comments", "late", "drip", "stall", "cut", "cut_hard", "cut_but_done",
    "malformed", "nested", "very_nested", "web_page", "error_in_the_stream", "filtered",
}  # fmt: skip

GOOD = ("no_done", "no_usage", "unlabelled", "whole", "zipped")


@pytest.fixture(params=[OPENAI])
def provider(request: pytest.FixtureRequest) -> Iterator[Provider]:
    """Run a provider, in the dialect that the test names."""
    with Provider(request.param, keys=(KEY,)) as running:
        yield running


def speaks(*dialects: Name):
    return pytest.mark.parametrize("provider", dialects, indirect=True)


def engine_of(provider: Provider, timeouts: Timeouts = PATIENT, **fields: Any):
    entry = Entry(name="somebody", api_base=provider.url, timeouts=timeouts, api_key_env="THE_KEY")
    model = Model(
        name="m",
        tier="paid",
        engine="cloud",
        provider="somebody",
        upstream="up",
        context_tokens=4096,
        **fields,
    )
    return load(model, entry, KEY, slots=4)


def ask(engine: Any, request: Request = ASKED) -> Completion:
    return engine.generate(request, on_token=lambda _: None, cancelled=lambda: False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.fault}-{case.dialect}")
def test_a_fault_is_one_request_and_one_error_that_says_what_to_do(case: Case):
    """The brain decides on the error alone; whoever tried again here would spend quota that it counts."""
    slow = case.fault in ("silent", "only_comments", "late", "drip", "stall")
    with Provider(case.dialect, keys=(KEY,)) as provider:
        engine = engine_of(provider, QUICK if slow else PATIENT)
        provider.always(FAULTS[case.fault])
        began, now = time.monotonic(), datetime.now(UTC)
        with pytest.raises(case.error) as raised:
            ask(engine)
        took_s, requests = time.monotonic() - began, len(provider.books.served)
        provider.always(None)

        assert ask(engine).text == PROMPT
        assert requests == 1
        assert took_s < 5
    error = raised.value
    assert type(error) is case.error
    assert (error.used is not None) == (case.fault in MAY_HAVE_COST)
    assert not any(secret in f"{error!r} {error}" for secret in (KEY, "violets", "ak-made-up", "org-made-up"))
    if isinstance(error, ProviderError):
        assert (error.scope, error.upstream) == (case.scope, "up")
        assert (error.until is not None) == (case.until_s is not None)
        if error.until and case.until_s:
            assert abs(error.until - now - timedelta(seconds=case.until_s)) < timedelta(seconds=10)


@speaks(OPENAI, OPENROUTER, MOONSHOT)
def test_the_books_agree_with_the_provider(provider: Provider):
    """Where the two differ somebody is paid too much, or believes so."""
    provider.cached_tokens = 3
    engine = engine_of(provider)

    answers = [ask(engine) for _ in range(5)]

    assert provider.books.totals()[:3] == (
        sum(answer.prompt_tokens for answer in answers),
        sum(answer.cached_tokens for answer in answers),
        sum(answer.completion_tokens for answer in answers),
    )
    costs = {answer.cost_usd for answer in answers}
    told = provider.books.served[0].cost_usd if provider.dialect.name == OPENROUTER else None
    assert costs == {told}
    assert not any(answer.is_estimated for answer in answers)
    assert provider.connections == 1


@speaks(OPENROUTER, MOONSHOT)
@pytest.mark.parametrize("fault", GOOD)
def test_an_answer_that_is_only_oddly_wrapped_is_an_answer(provider: Provider, fault: str):
    """What was paid for is not thrown away for a missing [DONE]."""
    engine = engine_of(provider)
    provider.always(FAULTS[fault])

    answers = [ask(engine) for _ in range(2)]

    assert [(answer.text, answer.finish_reason) for answer in answers] == [(PROMPT, "stop")] * 2
    assert provider.connections == 1


def test_tokens_that_nobody_counted_are_estimated_and_say_so(provider: Provider):
    """A model must not look free because its provider counts nothing."""
    provider.always(FAULTS["no_usage"])

    answer = ask(engine_of(provider))

    served = provider.books.served[0]
    assert answer.is_estimated
    assert answer.prompt_tokens >= served.prompt_tokens
    assert answer.completion_tokens >= served.completion_tokens
    assert answer.cost_usd is None


@speaks(OPENROUTER)
def test_tool_calls_and_reasoning_come_back_whole(provider: Provider):
    """An agent that gets half of a call's arguments calls the wrong thing."""
    provider.always(FAULTS["tools"])

    answer = ask(engine_of(provider))

    calls = answer.extras["tool_calls"]
    assert [(call["id"], call["type"], call["function"]) for call in calls] == [
        ("call_0", "function", {"name": "weather", "arguments": '{"city": "Paris"}'}),
        ("call_1", "function", {"name": "time", "arguments": '{"city": "Paris"}'}),
    ]
    assert (answer.extras["reasoning"], answer.text, answer.finish_reason) == (
        "Let me look.",
        "",
        "tool_calls",
    )


def test_logprobs_come_back_whole(provider: Provider):
    provider.always(FAULTS["with_logprobs"])

    logprobs = ask(engine_of(provider)).logprobs

    assert logprobs
    assert [entry["token"].strip() for entry in logprobs["content"]] == PROMPT.split()


def test_an_answer_of_ten_megabytes_comes_back_whole(provider: Provider):
    provider.always(FAULTS["huge"])
    pieces: list[str] = []

    answer = engine_of(provider).generate(ASKED, on_token=pieces.append, cancelled=lambda: False)

    assert len(answer.text) == 160 * 16 * 4096
    assert "".join(pieces) == answer.text


def test_an_answer_that_goes_on_and_on_is_broken_off(provider: Provider):
    """The limit between tokens never ends an answer that drips."""
    provider.between_s = 0.1
    engine = engine_of(provider, Timeouts(first_token_s=5, between_tokens_s=5, total_s=0.4))

    with pytest.raises(SilentError, match=r"no end of the answer within 0\.4 s"):
        ask(engine)


def test_a_call_is_called_off_while_nothing_comes(provider: Provider):
    """A worker that is told to stop must not wait ten minutes for a provider that hangs."""
    provider.always(FAULTS["silent"])
    called_off = threading.Event()
    threading.Timer(0.2, called_off.set).start()

    with pytest.raises(CancelledError):
        engine_of(provider).generate(ASKED, on_token=lambda _: None, cancelled=called_off.is_set)


def test_nobody_listens(provider: Provider):
    """A refused connection cost nothing: nobody had the request."""
    engine = engine_of(provider)
    way: Any = engine._way
    way._port = 1

    with pytest.raises(ConnectionLostError, match="refused") as raised:
        ask(engine)

    assert raised.value.used is None


def test_a_proxy_is_asked_for_the_provider(monkeypatch: pytest.MonkeyPatch):
    """Where there is one, nothing else gets out."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            connection, _ = proxy.accept()
            with connection:
                asked.extend(connection.recv(4096).decode().split("\r\n"))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        proxy.settimeout(10)
        accepting = threading.Thread(target=refuse)
        accepting.start()
        for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{proxy.getsockname()[1]}")
        wire = Wire("https://api.example/v1", KEY)
        with pytest.raises(LostError) as raised:
            list(wire.events({}, Watch(5, 5, 5, lambda: False)))
        accepting.join()

    assert asked[0].startswith("CONNECT api.example:443 ")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in asked
    assert not raised.value.is_sent


def test_a_connection_that_the_provider_has_ended_is_not_used_again(provider: Provider):
    """A call on it would fail, although the provider is well."""
    engine = engine_of(provider)
    ask(engine)
    way: Any = engine._way
    way._mine.connection.sock.shutdown(2)

    assert ask(engine).text == PROMPT


def test_a_request_says_what_was_asked_and_nothing_else(provider: Provider):
    """A key at its default that a provider does not know would be refused."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    engine = engine_of(provider, extra_body={"temperature": 1, "top_k": 3, "seed": None})

    ask(engine)
    ask(
        engine,
        Request(ASKED.messages, 5, 0.2, top_p=0.9, stop=("x",), seed=7, tools=tools, tool_choice="auto"),
    )

    plain, special = (served.body for served in provider.books.served)
    assert plain == {
        "model": "up", "messages": ASKED.messages, "max_tokens": 100, "temperature": 1, "top_k": 3,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert (special["top_p"], special["stop"]) == (0.9, ["x"])
    assert "seed" not in special
    assert (special["tools"], special["tool_choice"]) == (tools, "auto")


def test_two_hundred_calls_hang_without_holding_up_the_process(provider: Provider):
    """Who renews leases lives in the same process."""
    provider.always(FAULTS["silent"])
    engine = engine_of(provider, Timeouts(first_token_s=2))
    errors: list[str] = []

    def call() -> None:
        try:
            ask(engine)
        except SilentError as error:
            errors.append(str(error))

    calls = [threading.Thread(target=call) for _ in range(200)]
    for each in calls:
        each.start()
    latest = 0.0
    while any(each.is_alive() for each in calls):
        began = time.monotonic()
        time.sleep(0.01)
        latest = max(latest, time.monotonic() - began - 0.01)
    assert len(errors) == 200
    assert latest < 1


def test_a_price_that_is_no_number_is_unknown():
    """Unknown is not free."""
    from workers.engines.cloud_answer import dollars

    assert [dollars(value) for value in (None, "", "NaN", -1, True, {}, "inf")] == [None] * 7
    assert (dollars(0.00012), dollars("0")) == (Decimal("0.000120000"), Decimal(0))
