"""How the pages become HTML with a contents list at their side: `make docs`."""
# ruff: noqa: INP001 - docs/ is a folder of pages

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

project = "Aria Fleet"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_parser"]
exclude_patterns = ["*.py"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
myst_heading_anchors = 4

CONTENTS = """
```{{toctree}}
:hidden:
:glob:
:caption: {caption}

{folder}/*
```
"""


def add_contents(_app: object, page: str, text: list[str]) -> None:
    """Give Sphinx the list that it makes its navigation of; on the first page it would show twice."""
    if page == "index":
        for folder in ("tutorial", "how-to", "reference", "explanation"):
            caption = folder.replace("-", " ").capitalize()
            text[0] += CONTENTS.format(caption=caption, folder=folder)


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx is not there where only types are checked
    """Hook it in."""
    app.connect("source-read", add_contents)
