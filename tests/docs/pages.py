"""README.md and the pages of docs/, read as Markdown: their code blocks, tables, headings and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+) -->")

MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of the fence, from 1."""
    language: str
    text: str
    why_not_run: str | None
    """What the comment before it says; None: it runs."""

    @property
    def place(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def tokens(page: Path) -> list[Token]:
    return MARKDOWN.parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    """List the fenced blocks of a page; the comment that keeps one from being run stands right before it."""
    read = tokens(page)
    for before, token in pairwise([Token("start", "", 0), *read]):
        if token.type == "fence" and token.map:
            comment = NOT_RUN.search(before.content) if before.type == "html_block" else None
            yield Block(
                page, token.map[0] + 1, token.info, token.content, comment["why"] if comment else None
            )


def links(page: Path) -> Iterator[str]:
    """List where a page links to."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == "link_open":
                yield str(child.attrs["href"])
            if child.type == "image":
                yield str(child.attrs["src"])


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    read = tokens(page)
    headings = [inline.content for opening, inline in pairwise(read) if opening.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page: Path, *, under: str | None = None) -> dict[str, list[str]]:
    """Read the rows of a page's tables as Markdown, by what stands in backticks in their first cell.

    Args:
        under: only those below the heading of this text, or of several with commas between them, up to the
            next heading.
    """
    found: dict[str, list[str]] = {}
    headings, cells = list[str](), list[str]()
    for before, token in pairwise(tokens(page)):
        if before.type == "heading_open":
            headings = [name.strip("`") for name in token.content.split(", ")]
        elif token.type == "tr_open":
            cells = []
        elif token.type == "inline" and before.type == "td_open":
            cells.append(token.content)
        elif token.type == "tr_close" and cells and (under is None or under in headings):
            found[cells[0].strip("`")] = cells[1:]
    return found
