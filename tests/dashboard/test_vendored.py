"""The files of others are what their page says they are."""

import hashlib

import pytest

from dashboard.view import STATIC
from tests.docs.pages import rows

VENDORED = rows(STATIC / "VENDORED.md")


@pytest.mark.parametrize("name", VENDORED)
def test_a_file_of_others_is_unchanged(name: str):
    """One that somebody mended here would be lost with the next version."""
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == VENDORED[name][-1].strip("`")


def test_every_file_of_others_is_listed():
    """A licence asks for it."""
    ours = {"fleet.css", "fleet.js", "icon.svg", "VENDORED.md"}
    theirs = {file.name for file in STATIC.iterdir()} - ours

    assert {name for name in theirs if not name.endswith(".LICENSE")} == set(VENDORED)
