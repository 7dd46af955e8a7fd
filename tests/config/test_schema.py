"""The JSON Schema that editors check the YAML files with."""

import json

import pytest

from config.schema import FILES, SCHEMAS, schema_text
from config.settings import SHIPPED_CONFIG


@pytest.mark.parametrize("name", FILES)
def test_the_committed_schema_is_the_one_of_the_types(name: str):
    """An editor that knows last month's keys underlines right ones and lets wrong ones pass."""
    committed = (SCHEMAS / name).read_text(encoding="utf-8")

    assert committed == schema_text(FILES[name]), "write it anew: python -m config.schema"


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_names_its_schema(name: str):
    """Without the line an editor does not look for one."""
    first_line = (SHIPPED_CONFIG / name.replace(".schema.json", ".yaml")).read_text().splitlines()[0]

    assert first_line == f"# yaml-language-server: $schema=schemas/{name}"


def test_a_name_is_a_key_and_not_a_field():
    """The loader refuses `name:` inside an entry, so an editor must not offer it."""
    for file in FILES.values():
        definitions = json.loads(schema_text(file))["$defs"]
        assert [kind for kind, schema in definitions.items() if "name" in schema.get("properties", {})] == []
