"""What the rest of the house asks of a catalog."""

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.catalog import Catalog, load_catalog
from config.errors import UnknownNameError
from config.models import Model, Price
from config.profiles import Routing

Write = Callable[..., Path]

DAYS = st.dates(min_value=date(2020, 1, 1), max_value=date(2040, 1, 1))


def a_model(name: str, **fields: object) -> Model:
    return Model.model_validate(
        {"name": name, "tier": "local", "engine": "echo", "context_tokens": 8192, **fields}
    )


def a_price(since: date, usd: str = "1") -> Price:
    return Price(
        input_usd_per_mtok=Decimal(usd),
        output_usd_per_mtok=Decimal(usd),
        since=since,
        source="made up",
        checked_on=since,
    )


def a_catalog(*models: Model) -> Catalog:
    return Catalog(
        providers={},
        models={model.name: model for model in models},
        profiles={},
        focuses={},
        routing=Routing(primary=models[0].name),
    )


def test_entries_carry_the_name_that_is_their_key(write: Write):
    """A model that did not know its name could not name its queue, nor a row in the ledger."""
    catalog = load_catalog(write())

    assert catalog.model("small").name == "small"
    assert catalog.profile("social").name == "social"
    assert catalog.focus("journalist").name == "journalist"
    assert catalog.schedule["heartbeat"].name == "heartbeat"
    assert catalog.providers["openrouter"].name == "openrouter"


def test_an_unknown_name_is_refused_with_the_known_ones_and_the_closest(write: Write):
    """The caller of a profile that does not exist has made a typing error; the answer is in the message."""
    with pytest.raises(UnknownNameError) as refused:
        load_catalog(write()).profile("socail")

    assert refused.value.kind == "profile"
    assert refused.value.known == ("social",)
    assert refused.value.closest == "social"
    assert str(refused.value) == "no profile is named 'socail'; did you mean 'social'? known: social"


def test_an_error_survives_being_built_again_from_its_args():
    """Celery sends an error as its class and args: one that does not fit them arrives as a bare Exception."""
    error = UnknownNameError("model", "kimmi", ["kimi", "phi"])

    again = UnknownNameError(*error.args)

    assert str(again) == str(error)
    assert again.known == ("kimi", "phi")


@pytest.mark.parametrize(
    ("engine", "tier", "queue"),
    [
        ("mlx", "local", "mlx.m"),
        ("llama", "local", "cpu.m"),
        ("echo", "local", "echo.m"),
        ("echo", "paid", "echo.m"),
        ("cloud", "free", "free"),
        ("cloud", "paid", "paid"),
    ],
)
def test_a_model_names_the_queue_of_its_workers(engine: str, tier: str, queue: str):
    """A task sent to another queue than workers listen on would wait for ever."""
    assert a_model("m", engine=engine, tier=tier).queue == queue


def test_a_provider_has_its_own_queue_for_each_tier():
    """A worker that has the key of one provider must not be given the tasks of another."""
    assert a_model("m", engine="cloud", tier="free", provider="openrouter").queue == "free.openrouter"


def test_a_price_counts_from_its_day_until_the_next_one():
    """What was spent last month must not change when the price does."""
    model = a_model("m", tier="paid", prices=[a_price(date(2026, 1, 1), "1"), a_price(date(2026, 6, 1), "2")])

    def usd(day: date) -> Decimal | None:
        price = model.price_on(day)
        return price.input_usd_per_mtok if price else None

    assert usd(date(2025, 12, 31)) is None
    assert usd(date(2026, 1, 1)) == 1
    assert usd(date(2026, 5, 31)) == 1
    assert usd(date(2026, 6, 1)) == 2


@given(since=st.lists(DAYS, unique=True).map(sorted), day=DAYS)
def test_the_price_of_a_day_is_the_newest_that_is_not_younger(since: list[date], day: date):
    """Any other one would charge a past attempt with a price that came later, or an old one today."""
    price = a_model("m", tier="paid", prices=[a_price(each) for each in since]).price_on(day)

    valid = [each for each in since if each <= day]
    assert (price.since if price else None) == max(valid, default=None)


@pytest.mark.parametrize("text", ["0.56", "0.1", '"0.56"', "1", "2.94", "0.000000001", "1_000.25", "1e-7"])
def test_a_price_is_exactly_what_is_written(write: Write, text: str):
    """0.1 read as a binary float is 0.1000000000000000055 dollars, and sums of it are off by cents."""
    price = f"{{input_usd_per_mtok: {text}, output_usd_per_mtok: 1, since: 2026-01-01, "
    folder = write(
        ("    tier: free\n", "    tier: paid\n"),
        (
            "upstream: someone/free",
            f"upstream: someone/paid\n    prices: [{price}source: s, checked_on: 2026-01-01}}]",
        ),
    )

    found = load_catalog(folder).model("free").price_on(date(2026, 1, 1))

    assert found
    assert found.input_usd_per_mtok == Decimal(text.strip('"').replace("_", ""))


def test_a_retired_model_stands_for_its_successor_from_that_day_on():
    """A profile that names a dead id would fail on every task: 55 of 77 free ids died within a year."""
    catalog = a_catalog(
        a_model("old", retired_on=date(2026, 8, 31), successor="middle"),
        a_model("middle", retired_on=date(2026, 10, 1), successor="new"),
        a_model("new"),
    )

    assert catalog.resolve("old", date(2026, 8, 30)).name == "old"
    assert catalog.resolve("old", date(2026, 8, 31)).name == "middle"
    assert catalog.resolve("old", date(2026, 10, 1)).name == "new"


def test_a_retired_model_without_successor_stays_what_it_is():
    """Guessing a replacement could turn a free task into a paid one; callers pass it over and say why."""
    catalog = a_catalog(a_model("old", retired_on=date(2026, 8, 31)))

    model = catalog.resolve("old", date(2026, 9, 1))

    assert model.name == "old"
    assert model.is_retired(date(2026, 9, 1))


@given(retired=st.lists(DAYS, max_size=6), day=DAYS)
def test_resolving_ends_at_the_first_model_in_the_chain_that_is_alive(retired: list[date], day: date):
    """A plan must never hold a dead model while a live one follows it."""
    chain = [
        a_model(f"m{index}", retired_on=gone, successor=f"m{index + 1}") for index, gone in enumerate(retired)
    ]
    catalog = a_catalog(*chain, a_model(f"m{len(retired)}"))

    alive = [index for index, gone in enumerate(retired) if day < gone]

    assert catalog.resolve("m0", day).name == f"m{min(alive, default=len(retired))}"


def test_a_catalog_cannot_be_changed(write: Write):
    """Two tasks of one process must not see two catalogs."""
    model = load_catalog(write()).model("small")

    with pytest.raises(ValidationError):
        model.tier = "paid"  # pyright: ignore[reportAttributeAccessIssue] - that is the point


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("6h", 21_600), ("1d", 86_400)])
def test_a_period_is_a_number_and_a_unit(write: Write, text: str, seconds: int):
    """`every: 15` would be read as seconds by one and as minutes by another."""
    schedule = load_catalog(write(("15m", text))).schedule

    assert schedule["heartbeat"].every == timedelta(seconds=seconds)
