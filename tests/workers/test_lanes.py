"""Which models a host can serve, and which keys its workers are given."""

from datetime import date

from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG
from workers.lanes import LANES, lane_of, report
from workers.up import keys_for

SHIPPED = load_catalog(SHIPPED_CONFIG)
KEYS = {"OPENROUTER_API_KEY": "one", "MOONSHOT_API_KEY": "two"}


def test_a_model_is_served_where_its_key_is():
    found = report("free", SHIPPED, KEYS.__contains__)

    assert {model.queue for model in found.models} == {"free.openrouter"}
    assert found.missing == ()


def test_a_missing_key_is_named():
    found = report("paid", SHIPPED, lambda _: False)

    assert found.models == ()
    assert found.missing == (("kimi-k2.6", "MOONSHOT_API_KEY is not set"),)


def test_a_retired_model_is_neither_served_nor_missed():
    """It would be asked for in vain, and its absence is no news."""
    names = {model.name for model in report("paid", SHIPPED, KEYS.__contains__).models}

    assert SHIPPED.model("kimi").is_retired(date.today())  # noqa: DTZ011
    assert names == {"kimi-k2.6"}


def test_a_worker_is_given_the_keys_of_its_providers_only():
    given = {lane: keys_for(report(lane, SHIPPED, KEYS.__contains__), SHIPPED, KEYS) for lane in LANES}

    assert {lane: set(keys) for lane, keys in given.items() if keys} == {
        "free": {"OPENROUTER_API_KEY"},
        "paid": {"MOONSHOT_API_KEY"},
    }


def test_every_chat_model_has_a_kind_of_worker():
    without = {model.name for model in SHIPPED.models.values() if model.kind == "chat" and not lane_of(model)}

    assert not without
