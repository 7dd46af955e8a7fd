"""What the paid primary cost, and from when on: the yardstick of what is saved."""

from collections.abc import Iterator
from datetime import date

from config.catalog import Catalog, Model
from config.models import Price


def primary_prices(catalog: Catalog) -> list[tuple[date, Price | None]]:
    """List the prices of the model that `routing.primary` means, each with its first day, oldest first.

    A model that is retired hands over to its successor. The price is None for days of which the catalog has
    none, and where the primary is not a paid model.
    """
    days = {date.min}
    for model in succession(catalog):
        days |= {price.since for price in model.prices}
        if model.retired_on:
            days.add(model.retired_on)
    return [(day, price_on(catalog, day)) for day in sorted(days)]


def succession(catalog: Catalog) -> Iterator[Model]:
    """Go through the primary and those that come after it."""
    model = catalog.model(catalog.routing.primary)
    yield model
    while model.successor:
        model = catalog.model(model.successor)
        yield model


def price_on(catalog: Catalog, day: date) -> Price | None:
    model = catalog.resolve(catalog.routing.primary, day)
    return model.price_on(day) if model.tier == "paid" else None
