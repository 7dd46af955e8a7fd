"""The same provider through litellm, which is how those are asked that do not speak OpenAI's API."""

from collections.abc import Iterator

import pytest

from config.models import Model, Timeouts
from config.models import Provider as Entry
from tests.provider import FAULTS, Provider
from workers.engines.base import Completion, Request
from workers.engines.cloud import CloudEngine, load
from workers.engines.errors import (
    ContextTooLongError,
    CutAnswerError,
    EngineError,
    ModelGoneError,
    OverloadedError,
    PaymentRequiredError,
    QuotaSpentError,
    RateLimitedError,
    SilentError,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of litellm and what it imports

pytest.importorskip("litellm")

KEY = "sk-made-up-0123456789"
PROMPT = "violets are blue and so is this prompt"
ASKED = Request([{"role": "user", "content": PROMPT}], max_tokens=100, temperature=0.5)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider("openrouter", keys=(KEY,)) as running:
        ask(engine_of(running))  # its first call takes seconds
        yield running


@pytest.fixture(autouse=True)
def behaved(provider: Provider) -> Iterator[None]:
    yield
    provider.always(None)
    provider.books.served.clear()


def engine_of(provider: Provider, first_token_s: float = 60) -> CloudEngine:
    timeouts = Timeouts(first_token_s=first_token_s)
    entry = Entry(name="p", litellm="openrouter", api_base=provider.url, timeouts=timeouts)
    model = Model(name="m", tier="free", engine="cloud", provider="p", upstream="up", context_tokens=4096)
    return load(model, entry, KEY, slots=4)


def ask(engine: CloudEngine) -> Completion:
    return engine.generate(ASKED, on_token=lambda _: None, cancelled=lambda: False)


def test_an_answer_is_the_same_as_without_litellm(provider: Provider):
    provider.books.served.clear()

    answer = ask(engine_of(provider))

    served = provider.books.served[0]
    assert (answer.text, answer.finish_reason) == (PROMPT, "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (
        served.prompt_tokens,
        served.completion_tokens,
    )
    assert (answer.cost_usd, answer.is_estimated) == (served.cost_usd, False)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited", RateLimitedError),
        ("day_spent", QuotaSpentError),
        ("no_money", PaymentRequiredError),
        ("no_model", ModelGoneError),
        ("broken", OverloadedError),
        ("too_long", ContextTooLongError),
        ("cut", CutAnswerError),
        ("cut_hard", CutAnswerError),
    ],
)
def test_a_fault_is_one_request_and_one_error(provider: Provider, fault: str, error: type[EngineError]):
    """litellm would try again by itself, and ends an answer that was cut with `stop`."""
    provider.always(FAULTS[fault])

    with pytest.raises(error) as raised:
        ask(engine_of(provider))

    assert len(provider.books.served) == 1
    assert KEY not in str(raised.value)
    assert "violets" not in str(raised.value)


def test_comments_are_no_tokens(provider: Provider):
    """litellm waits for as long as any byte comes."""
    provider.always(FAULTS["only_comments"])

    with pytest.raises(SilentError):
        ask(engine_of(provider, first_token_s=0.5))


def test_tokens_that_litellm_counted_itself_are_estimated(provider: Provider):
    provider.always(FAULTS["no_usage"])

    assert ask(engine_of(provider)).is_estimated
