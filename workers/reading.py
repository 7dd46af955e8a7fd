"""The ledger, opened by a command."""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg.errors import UndefinedColumn, UndefinedTable

from config.settings import Settings, without_password
from ledger.connect import Connection, connect
from workers.errors import NotThereError


@contextmanager
def reading(settings: Settings, name: str) -> Generator[Connection]:
    """Open the ledger to read; nothing can be written.

    Raises:
        NotThereError: it does not answer, or is not there in the form that this version knows.
    """
    with writing(settings, name) as db:
        db.read_only = True
        yield db


@contextmanager
def writing(settings: Settings, name: str) -> Generator[Connection]:
    """Open the ledger; raises as `reading` does."""
    with explained(settings.database_url), connect(settings.database_url, name=name) as db:
        yield db


@contextmanager
def explained(database_url: str) -> Generator[None]:
    """Say of a ledger that cannot be read what to do about it.

    Raises:
        NotThereError: it does not answer, or is not there in the form that this version knows.
    """
    try:
        yield
    except psycopg.OperationalError as error:
        raise silent("Postgres", database_url, error) from error
    except (UndefinedTable, UndefinedColumn) as error:
        raise not_this_version(database_url) from error


def not_this_version(database_url: str) -> NotThereError:
    what = f"the database at {without_password(database_url)} has no ledger of this version"
    return NotThereError(what, "make it with `fleet db migrate`, or start the fleet: `fleet up`")


def silent(name: str, url: str, error: Exception) -> NotThereError:
    what = f"{name} does not answer at {without_password(url)} ({type(error).__name__})"
    return NotThereError(what, "start the fleet: `fleet up`")
