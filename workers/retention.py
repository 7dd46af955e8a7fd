"""How long the text of a task is kept."""

from datetime import timedelta

from config.catalog import Catalog

NEVER = timedelta(0)

ON_ITS_WAY = timedelta(minutes=1)
"""A task that has ended keeps its text at least so long: its result may not be in Redis yet."""


def keep_text(catalog: Catalog, profile: str | None, *, default: timedelta) -> timedelta:
    """Tell how long texts of a profile are kept; `default` for one that does not say, and for no profile."""
    known = catalog.profiles.get(profile) if profile else None
    return default if known is None or known.keep_text is None else known.keep_text
