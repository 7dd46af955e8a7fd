"""The catalog that is shipped: what the user's audit says, and what has changed since."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from config.catalog import Catalog, load_catalog
from config.models import PypiSource
from config.settings import SHIPPED_CONFIG

ECHO = Path(__file__).parents[1] / "catalogs" / "echo"

AT_THE_AUDIT = date(2026, 2, 12)
TODAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load_catalog(SHIPPED_CONFIG)


def test_every_model_of_the_audit_is_there(shipped: Catalog):
    """A model that is not in the catalog cannot be planned, and nobody would notice."""
    tiers = {name: model.tier for name, model in shipped.models.items()}

    assert {name for name, tier in tiers.items() if tier == "local"} == {
        "qwen3-mlx", "qwen-cpu-fallback", "phi4-mini-local", "qwen3-local", "nomic-embed-text", "smollm2",
    }  # fmt: skip
    assert {name for name, tier in tiers.items() if tier == "free"} == {
        "trinity-free", "qwen3-coder-free", "chimera-free", "qwen3-next-free", "glm-free", "deepseek-free",
        "nemotron-free", "gpt-oss-free", "gpt-oss-small-free",
    }  # fmt: skip
    assert {name for name, tier in tiers.items() if tier == "paid"} == {
        "kimi",
        "kimi-k2-thinking",
        "kimi-k2.6",
    }
    assert shipped.model("nomic-embed-text").dimensions == 768
    assert [n for n, m in shipped.models.items() if m.tier == "free" and not m.capabilities.tools] == [
        "chimera-free", "deepseek-free", "nemotron-free",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "model", "temperature", "max_tokens"),
    [
        ("routing", "kimi", 0.3, 512),
        ("analysis", "kimi", 0.7, 4096),
        ("creative", "trinity-free", 0.9, 2048),
        ("code", "qwen3-coder-free", 0.2, 8192),
        ("social", "trinity-free", 0.8, 1024),
    ],
)
def test_the_profiles_are_those_of_the_audit(
    shipped: Catalog, profile: str, model: str, temperature: float, max_tokens: int
):
    """The user tuned these numbers; the fleet keeps them."""
    found = shipped.profile(profile)

    assert (found.model, found.temperature, found.max_tokens) == (model, temperature, max_tokens)
    assert found.prompt


def test_the_focuses_are_those_of_the_audit(shipped: Catalog):
    """`Keep the focus defaults` is what was asked for."""
    assert {name: focus.model for name, focus in shipped.focuses.items()} == {
        "orchestrator": "kimi",
        "devsecops": "qwen3-coder-free",
        "data": "chimera-free",
        "trader": "deepseek-free",
        "creative": "trinity-free",
        "social": "trinity-free",
        "journalist": "qwen3-next-free",
    }


def test_the_routing_is_that_of_the_audit(shipped: Catalog):
    """The order is the user's; what comes after it only counts when none of it can be reached."""
    assert shipped.routing.primary == "kimi"
    assert shipped.routing.fallbacks == (
        "qwen3-next-free", "deepseek-free", "gpt-oss-free", "trinity-free", "chimera-free",
    )  # fmt: skip
    assert shipped.routing.last_resort[-1] == "smollm2"


def test_kimi_keeps_its_old_price_and_stands_for_its_successor_today(shipped: Catalog):
    """What was spent then must add up as then; what is asked today must not go to a dead id."""
    then, now = shipped.resolve("kimi", AT_THE_AUDIT), shipped.resolve("kimi", TODAY)
    old, new = then.price_on(AT_THE_AUDIT), now.price_on(TODAY)

    assert (then.name, now.name) == ("kimi", "kimi-k2.6")
    assert old
    assert (old.input_usd_per_mtok, old.output_usd_per_mtok) == (Decimal("0.56"), Decimal("2.94"))
    assert new
    assert (new.input_usd_per_mtok, new.output_usd_per_mtok) == (Decimal("0.95"), Decimal("4.00"))
    assert new.cached_input_usd_per_mtok == Decimal("0.16")
    assert shipped.resolve("kimi-k2-thinking", TODAY).name == "kimi-k2.6"


def test_every_name_stands_for_a_living_model_today(shipped: Catalog):
    """A shipped profile that fails on its first model would be the first thing that a new user sees."""
    for name in shipped.models:
        assert not shipped.resolve(name, TODAY).is_retired(TODAY), name


def test_every_model_of_the_audit_was_alive_at_the_audit(shipped: Catalog):
    """A retirement date with the wrong year would move months of past tasks to another model."""
    for name in shipped.models:
        assert shipped.resolve(name, AT_THE_AUDIT).name == name


@pytest.mark.parametrize(
    ("profile", "tiers"),
    [
        ("quick", ["local", "local", "local", "free"]),
        ("triage", ["local", "local", "local", "free"]),
        ("local-code", ["local", "free"]),
        ("long-context", ["free", "free"]),
        ("reasoning", ["free", "free", "paid"]),
    ],
)
def test_the_heuristics_are_those_of_the_audit(shipped: Catalog, profile: str, tiers: list[str]):
    """Local first for simple work, free for special work, paid only when those have failed."""
    found = shipped.profile(profile)

    assert found.fallbacks is not None
    assert [shipped.model(name).tier for name in (found.model, *found.fallbacks)] == tiers
    assert shipped.profile("reasoning").fallbacks == ("deepseek-free", "kimi-k2-thinking")


def test_what_is_posted_is_never_paid_for_and_what_is_paid_for_has_a_budget(shipped: Catalog):
    """A dollar that nobody meant to spend is what the audit found."""
    assert shipped.profile("social").max_tier == "free"
    assert any(
        budget.tier == "paid" and budget.window == "day" and budget.usd for budget in shipped.budgets.values()
    )


def test_the_heartbeat_never_leaves_the_house(shipped: Catalog):
    """96 runs a day on a paid model are what the user wanted to be rid of."""
    heartbeat = shipped.profile("heartbeat")

    assert heartbeat.max_tier == "local"
    assert heartbeat.fallbacks is not None
    assert {shipped.model(name).tier for name in (heartbeat.model, *heartbeat.fallbacks)} == {"local"}
    assert heartbeat.fallbacks[-1] == "smollm2"
    engines = [shipped.model(name).engine for name in (heartbeat.model, *heartbeat.fallbacks)]
    assert engines == ["mlx", "llama", "llama", "llama", "llama"]
    assert shipped.schedule["heartbeat"].profile == "heartbeat"


def test_the_starter_can_take_a_task_of_every_profile(shipped: Catalog):
    """The demo runs each profile on it: a profile that asks for more than it has would find no model."""
    starter = shipped.model("smollm2")

    assert starter.max_output_tokens
    for profile in shipped.profiles.values():
        prompt_bytes = len((profile.system or "") + profile.prompt)
        assert prompt_bytes + min(profile.max_tokens, starter.max_output_tokens) < starter.context_tokens
    assert isinstance(starter.sources[0], PypiSource)


def test_providers_name_the_variable_of_their_key_and_where_their_limits_were_read(shipped: Catalog):
    """Limits without a date and a source cannot be checked when a provider changes them."""
    assert {provider.api_key_env for provider in shipped.providers.values()} == {
        "OPENROUTER_API_KEY", "MOONSHOT_API_KEY",
    }  # fmt: skip
    openrouter = shipped.providers["openrouter"]
    assert openrouter.limits_for().requests_per_minute == 20
    allowed = [openrouter.limits_for(is_free_tier=told).requests_per_day for told in (None, True, False)]
    assert allowed == [50, 50, 1000]
    for provider in shipped.providers.values():
        assert provider.limits.source
        assert provider.limits.checked_on


def test_the_echo_catalog_has_every_shipped_profile_and_focus(shipped: Catalog):
    """The fleet's tests run on it: a profile that it lacks would be tested nowhere."""
    echo = load_catalog(ECHO)

    assert echo.focuses.keys() >= shipped.focuses.keys()
    for name, profile in shipped.profiles.items():
        same = echo.profile(name)
        assert (same.temperature, same.max_tokens, same.max_tier) == (
            profile.temperature, profile.max_tokens, profile.max_tier,
        )  # fmt: skip
