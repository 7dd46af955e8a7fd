"""The reference has every setting, catalog key, command, column and error there is, and nothing else."""

import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from pydantic_core import PydanticUndefined, to_jsonable_python

import config.errors
import ledger.errors
import routing.errors
import workers.engines.errors
import workers.errors
from config import budgets, models, profiles, schedule, settings
from config.entry import Entry
from config.settings import read_settings
from docs import generate
from tests.docs.pages import ROOT, rows

REFERENCE = ROOT / "docs/reference"
SETTINGS = REFERENCE / "settings.md"
CATALOG = REFERENCE / "profiles-and-models.md"
LEDGER = REFERENCE / "ledger.md"
ERRORS = REFERENCE / "errors.md"

ENTRIES = [
    kind
    for module in (models, profiles, budgets, schedule)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, Entry) and kind.__module__ == module.__name__
]

TREES = (config.errors, workers.errors, routing.errors, workers.engines.errors, ledger.errors)

COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
      FROM pg_attribute a
      JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace = 'public'::regnamespace
       AND c.relkind IN ('r', 'p', 'v', 'm')
       AND NOT c.relispartition
       AND c.relname <> 'alembic_version'
       AND a.attnum > 0
       AND NOT a.attisdropped
"""

RULES = """
    SELECT conname
      FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace
       AND contype = 'c'
"""


def test_every_setting_is_in_the_reference():
    """A variable that is nowhere written down is found by reading code, or never."""
    read = set(re.findall(r'"([A-Z][A-Z0-9_]{3,})"', Path(settings.__file__).read_text(encoding="utf-8")))

    assert set(rows(SETTINGS)) == read


VALUES = {name: cells[0] for name, cells in rows(SETTINGS).items() if re.fullmatch(r"`[^`]+`", cells[0])}
"""Defaults that are one value; the others are described."""


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_has_the_default_of_the_reference(name: str):
    """Whoever sets a variable to its documented default expects that nothing changes."""
    assert read_settings({name: VALUES[name].strip("`")}) == read_settings({})


@pytest.mark.parametrize("kind", ENTRIES, ids=lambda kind: kind.__name__)
def test_every_key_of_the_catalog_is_in_the_reference(kind: type[Entry]):
    """The files are written by hand, with the reference beside them."""
    keys = {name: default_of(kind, name) for name in kind.model_fields if name != "name"}

    documented = {key: cells[0] for key, cells in rows(CATALOG, under=kind.__name__).items()}

    assert documented == keys


def default_of(kind: type[Entry], name: str) -> str:
    """Write a field's default as the reference does."""
    default = kind.model_fields[name].get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if default is None or (isinstance(default, tuple | dict | Entry) and not to_jsonable_python(default)):
        return "none"
    if isinstance(default, Entry):
        return "none"
    return f"`{default if isinstance(default, str) else json.dumps(to_jsonable_python(default))}`"


def test_the_page_of_the_command_line_is_current():
    """Commands and options change in the code; the page has to follow."""
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), (
        "write it anew: python -m docs.generate"
    )


def test_every_column_is_in_the_reference(db_url: str):
    """People ask the ledger in SQL, with this page beside them."""
    with psycopg.connect(db_url) as db:
        columns = {(table, column): kind for table, column, kind in db.execute(COLUMNS)}

    tables = {table for table, _ in columns}
    documented = {
        (table, column): cells[0].strip("`")
        for table in tables
        for column, cells in rows(LEDGER, under=table).items()
    }

    assert documented == columns


def test_every_rule_of_the_ledger_is_in_the_reference(db_url: str):
    """Postgres names the rule that a write broke, and this page says what it means."""
    with psycopg.connect(db_url) as db:
        rules = {name for (name,) in db.execute(RULES)}

    assert set(rows(LEDGER, under="Rules")) == rules


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.__name__)
def test_every_error_is_in_the_reference_with_its_fields(tree: ModuleType):
    """A program that handles an error has to know what it carries."""
    expected = {kind.__name__: fields_of(kind) for kind in errors_of(tree)}

    documented = {
        name: set(re.findall(r"`(\w+)`", cells[0]))
        for name, cells in rows(ERRORS, under=tree.__name__).items()
    }

    assert documented == expected


def errors_of(tree: ModuleType) -> list[type[Exception]]:
    """List the errors of a tree without its root, which nobody raises."""
    own = [kind for kind in vars(tree).values() if inspect.isclass(kind) and kind.__module__ == tree.__name__]
    return [kind for kind in own if issubclass(kind, Exception) and Exception not in kind.__bases__]


def fields_of(kind: type[Exception]) -> set[str]:
    return set(inspect.signature(kind).parameters)


def test_every_provider_key_of_the_shipped_catalog_is_in_the_reference():
    """Without its key a provider's models are passed over."""
    text = SETTINGS.read_text(encoding="utf-8")
    shipped = (ROOT / "config/models.yaml").read_text(encoding="utf-8")

    assert [key for key in re.findall(r"api_key_env: (\w+)", shipped) if key not in text] == []
