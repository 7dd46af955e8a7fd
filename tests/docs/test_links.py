"""Every link of a page leads somewhere, and every page can be found."""

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links, name_of

INDEX = ROOT / "docs/index.md"


def goal_of(link: str, page: Path) -> Path:
    return (page.parent / link.partition("#")[0]).resolve() if link.partition("#")[0] else page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_relative_link_resolves(page: Path):
    """A page that was renamed leaves links behind which nobody clicks until a newcomer does."""
    dead: list[str] = []
    for link in links(page):
        if "://" in link:
            continue
        goal, anchor = goal_of(link, page), link.partition("#")[2]
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            dead.append(link)

    assert dead == []


def test_the_index_names_every_page():
    """A page that nothing links to is not read."""
    linked = {goal_of(link, INDEX) for link in links(INDEX)}

    assert [
        name_of(page) for page in PAGES if page not in linked and page.parent != ROOT and page != INDEX
    ] == []
