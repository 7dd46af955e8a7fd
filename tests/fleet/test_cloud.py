"""Cloud workers, as processes, at providers that misbehave: the ledger and their books agree."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery
from openai.types.chat import ChatCompletion

from config.settings import Settings, read_settings
from tests.fleet.conftest import process, servers, wait_for
from tests.fleet.processes import run_fleet
from tests.provider import FAULTS, Provider
from workers.engines.errors import ContentRefusedError

FREE_KEY, PAID_KEY = "sk-free-made-up", "sk-paid-made-up"
WAIT_S = 60

PRICES = """
    prices:
      - input_usd_per_mtok: 1.00
        output_usd_per_mtok: 2.00
        cached_input_usd_per_mtok: 0.10
        since: 2026-01-01
        source: made up for tests
        checked_on: 2026-01-01
"""

MODELS = """
providers:
  giver: {{api_key_env: MADE_UP_FREE_KEY, api_base: "{free}", quota: openrouter}}
  seller: {{api_key_env: MADE_UP_PAID_KEY, api_base: "{paid}", quota: moonshot}}
  stranger: {{api_key_env: MADE_UP_MISSING_KEY, api_base: "{free}"}}
  home: {{api_base: "{home}"}}
models:
  small: {{tier: free, engine: cloud, provider: giver, upstream: small, context_tokens: 4096}}
  twin: {{tier: free, engine: cloud, provider: giver, upstream: twin, context_tokens: 4096}}
  large: {{tier: free, engine: cloud, provider: giver, upstream: large, context_tokens: 65536}}
  keyless: {{tier: free, engine: cloud, provider: stranger, upstream: keyless, context_tokens: 4096}}
  mine: {{tier: local, engine: cloud, provider: home, upstream: mine, context_tokens: 4096}}
  dear:
    tier: paid
    engine: cloud
    provider: seller
    upstream: dear
    context_tokens: 65536
    capabilities: {{tools: true}}
{prices}
"""

PROFILES = """
profiles:
  careful: {model: keyless, fallbacks: [small, twin, large, dear], patience_s: 0, temperature: 0, max_tokens: 100, prompt: Hello.}
  bold: {model: small, fallbacks: [dear], on_refusal: next, patience_s: 0, temperature: 0, max_tokens: 100, prompt: Hello.}
  thrifty: {model: small, fallbacks: [], temperature: 0, max_tokens: 100, prompt: Hello.}
  rich: {model: dear, fallbacks: [], temperature: 0, max_tokens: 100, prompt: Hello.}
  home: {model: mine, fallbacks: [], max_tier: local, temperature: 0, max_tokens: 100, prompt: Hello.}
routing: {primary: small}
"""  # noqa: E501

BOOKED = """
    SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0),
           coalesce(sum(completion_tokens), 0), coalesce(sum(cost_usd), 0)
      FROM attempts
     WHERE model = ANY (%s) AND outcome = 'succeeded'
"""


@dataclass(frozen=True)
class Cloud:
    """A fleet with cloud workers, and the providers behind it."""

    settings: Settings
    app: Celery
    free: Provider
    paid: Provider
    home: Provider
    environment: dict[str, str]

    def send(self, prompt: str, profile: str, **arguments: Any) -> Any:
        return self.app.send_task("complete", (prompt,), {"profile": profile, **arguments}, queue="dispatch")

    def ask(self, prompt: str, profile: str, **arguments: Any) -> dict[str, Any]:
        return self.send(prompt, profile, **arguments).get(timeout=WAIT_S)

    def fleet(self, *arguments: str) -> str:
        """Give what a `fleet` command prints, on a wide terminal."""
        return run_fleet({**self.environment, "COLUMNS": "200"}, *arguments, timeout_s=WAIT_S).stdout

    def booked(self, *models: str) -> Sequence[Any]:
        with psycopg.connect(self.settings.database_url) as db:
            return db.execute(BOOKED, (list(models),)).fetchone() or ()

    def attempts(self, answer_id: str) -> list[tuple[str, str]]:
        with psycopg.connect(self.settings.database_url) as db:
            query = "SELECT model, outcome FROM attempts WHERE task_id = %s ORDER BY number"
            return db.execute(query, (answer_id.removeprefix("chatcmpl-"),)).fetchall()


@pytest.fixture(scope="module")
def cloud(short_folder: Callable[[], Path]) -> Iterator[Cloud]:
    """Run a dispatcher and a worker of each kind; only the one that needs a key has it."""
    folder = short_folder()
    config = folder / "config"
    config.mkdir()
    with ExitStack() as stack:
        free = stack.enter_context(Provider("openrouter", keys=(FREE_KEY,)))
        paid = stack.enter_context(Provider("moonshot", keys=(PAID_KEY,)))
        paid.credit_usd = Decimal("7.25")
        home = stack.enter_context(Provider("openai"))
        (config / "models.yaml").write_text(
            MODELS.format(free=free.url, paid=paid.url, home=home.url, prices=PRICES)
        )
        (config / "profiles.yaml").write_text(PROFILES)
        (config / "schedule.yaml").write_text("schedule: {}\n")
        environment = stack.enter_context(servers(folder / "home", config))
        settings = read_settings(environment)
        for kind, keys in (
            ("free", {"MADE_UP_FREE_KEY": FREE_KEY}),
            ("paid", {"MADE_UP_PAID_KEY": PAID_KEY}),
            ("local", {}),
        ):
            stack.enter_context(process({**environment, **keys}, "workers.cli", "worker", kind))
        stack.enter_context(process(environment, "workers.cli", "dispatcher"))
        wait_for(settings, "SELECT count(*) FROM workers", 3, timeout_s=60)
        wait_for(settings, "SELECT count(*) FROM accounts", 2, timeout_s=60)
        app = Celery("caller", broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
        yield Cloud(settings, app, free, paid, home, environment)


@pytest.fixture(autouse=True)
def behaved(cloud: Cloud) -> Iterator[None]:
    """Let the providers behave again, with new books."""
    yield
    for provider in (cloud.free, cloud.paid, cloud.home):
        provider.faults.clear()
        provider.queued.clear()


def test_the_ledger_has_what_the_providers_have(cloud: Cloud):
    """To the token and to the nanodollar."""
    cloud.paid.cached_tokens = 2
    for number in range(6):
        cloud.ask(f"a prompt with {number} in it", "thrifty")
        cloud.ask(f"another prompt with {number} in it", "rich")
        cloud.ask(f"and {number} at home", "home")

    for provider, models in ((cloud.free, ["small"]), (cloud.paid, ["dear"]), (cloud.home, ["mine"])):
        prompt, cached, completion, usd = provider.books.totals()
        is_home = provider is cloud.home
        expected = (len(provider.books.whole), prompt, cached, completion, 0 if is_home else usd)
        assert tuple(cloud.booked(*models)) == expected
        assert len(provider.books.served) == len(provider.books.whole) >= 6


def test_only_the_worker_with_the_key_gets_the_tasks(cloud: Cloud):
    """A model whose key nobody has is passed over, not tried."""
    answer = cloud.ask("who has the key", "careful")

    assert answer["fleet"]["model"] == "small"
    assert {served.key for served in cloud.free.books.served} == {FREE_KEY}
    assert {served.key for served in cloud.paid.books.served} <= {PAID_KEY}
    assert {served.key for served in cloud.home.books.served} <= {""}


def test_a_failure_is_tried_once_more_on_the_same_model(cloud: Cloud):
    """The most frequent fault of all is over a second later."""
    before = len(cloud.paid.books.served)
    cloud.paid.once(FAULTS["broken"])

    answer = cloud.ask("try again", "rich")

    assert answer["choices"][0]["message"]["content"] == "try again"
    assert cloud.attempts(answer["id"]) == [("dear", "failed"), ("dear", "succeeded")]
    assert len(cloud.paid.books.served) == before + 2


def test_a_cut_answer_is_never_given_out(cloud: Cloud):
    """Half a sentence in a post is worse than none."""
    before = len(cloud.free.books.served)
    cloud.free.always(FAULTS["cut"], "small")

    answer = cloud.ask("one two three four five", "careful")

    assert answer["choices"][0]["message"]["content"] == "one two three four five"
    assert cloud.attempts(answer["id"]) == [("small", "failed"), ("twin", "succeeded")]
    assert len(cloud.free.books.served) == before + 2


def test_what_is_too_long_goes_to_a_larger_context(cloud: Cloud):
    """`twin` comes next, and is as small as the one that it did not fit."""
    cloud.free.always(FAULTS["too_long"], "small")

    answer = cloud.ask("a text that is longer than it looks", "careful")

    assert cloud.attempts(answer["id"]) == [("small", "failed"), ("large", "succeeded")]


def test_a_refusal_is_taken_elsewhere_only_where_the_profile_says_so(cloud: Cloud):
    """Nobody's policy is worked around by asking around."""
    cloud.free.always(FAULTS["refused_content"])
    before = len(cloud.free.books.served), len(cloud.paid.books.served)

    with pytest.raises(ContentRefusedError) as refused:
        cloud.ask("something wicked", "careful")

    assert "wicked" not in str(refused.value)
    assert (len(cloud.free.books.served), len(cloud.paid.books.served)) == (before[0] + 1, before[1])
    answer = cloud.ask("something wicked", "bold")
    assert cloud.attempts(answer["id"]) == [("small", "failed"), ("dear", "succeeded")]


def test_a_limit_is_waited_for_as_long_as_the_provider_says(cloud: Cloud):
    """Asking again before costs quota, and longer than needed costs time."""
    before = len(cloud.free.books.served)
    cloud.free.once(FAULTS["rate_limited"])

    answer = cloud.ask("wait for me", "thrifty")

    refused, served = cloud.free.books.served[before:]
    assert answer["fleet"]["attempts"] == 2
    assert 1.9 < served.at - refused.at < 20


def test_tool_calls_come_back_as_openai_writes_them(cloud: Cloud):
    """Agents hand the completion to OpenAI's own types."""
    cloud.paid.once(FAULTS["tools"])
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]

    answer = cloud.ask("weather?", "rich", tools=tools)

    message = ChatCompletion.model_validate(answer).choices[0].message
    assert message.content is None
    assert [call.type for call in message.tool_calls or ()] == ["function", "function"]
    assert cloud.paid.books.served[-1].body["tools"] == tools


def test_usage_that_the_provider_left_out_is_called_an_estimate(cloud: Cloud):
    """A number that nobody counted must not look like one that somebody did."""
    counted = cloud.ask("count me", "thrifty")
    cloud.free.always(FAULTS["no_usage"], "small")

    estimated = cloud.ask("count me", "thrifty")

    assert counted["fleet"]["tokens_are_estimated"] is False
    assert estimated["fleet"]["tokens_are_estimated"] is True
    told = cloud.fleet("explain", estimated["id"].removeprefix("chatcmpl-"))
    assert "estimated: the provider counted none" in told
    assert "estimated" not in cloud.fleet("explain", counted["id"].removeprefix("chatcmpl-"))


def test_the_accounts_are_asked_for_and_shown(cloud: Cloud):
    """What is left is known before it is gone."""
    with psycopg.connect(cloud.settings.database_url) as db:
        found = db.execute("SELECT provider, credit_usd, is_free_tier FROM accounts ORDER BY 1").fetchall()

    assert found == [("giver", None, True), ("seller", Decimal("7.25"), None)]
    assert "$7.25 of credit" in cloud.fleet("models")
    assert "50 requests today" in cloud.fleet("models")
    assert "seller: $7.25 of credit" in cloud.fleet("doctor")


def test_an_empty_account_is_left_alone_until_there_is_credit(cloud: Cloud):
    """One refusal, then none; and no hour of waiting once somebody has paid."""
    cloud.paid.credit_usd = Decimal(0)
    cloud.paid.always(FAULTS["no_money"])
    before = len(cloud.paid.books.served)
    waiting = [cloud.send(f"buy {number}", "rich") for number in range(3)]
    wait_for(cloud.settings, "SELECT credit_usd = 0 FROM accounts WHERE provider = 'seller'", True)
    refused = len(cloud.paid.books.served) - before
    told = cloud.fleet("models"), cloud.fleet("doctor")

    cloud.paid.credit_usd = Decimal(3)
    cloud.paid.always(None)
    with process({**cloud.environment, "MADE_UP_PAID_KEY": PAID_KEY}, "workers.cli", "worker", "paid"):
        answers = [each.get(timeout=WAIT_S) for each in waiting]

    assert {answer["fleet"]["model"] for answer in answers} == {"dear"}
    assert refused <= 3
    assert "has no money left" in told[0] or "no credit is left" in told[0]
    assert "seller says that no credit is left" in told[1]


def test_a_worker_without_a_key_says_so(cloud: Cloud, capfd: pytest.CaptureFixture[str]):
    """It would look alive, and serve nothing."""
    environment = {
        **os.environ,
        "FLEET_HOME": str(cloud.settings.home),
        "FLEET_CONFIG": str(cloud.settings.config),
    }
    with process(environment, "workers.cli", "worker", "free") as running:
        assert running.wait(WAIT_S) == 1

    assert "MADE_UP_FREE_KEY is not set" in capfd.readouterr().err
