"""A YAML file as data, with the line of every key and all that is wrong with it."""

from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

Keys = tuple[str | int, ...]
"""Where something stands in a file: ("models", "kimi", "prices", 0)."""


class Document:
    """One file of the catalog, and its faults so far."""

    def __init__(self, path: Path) -> None:
        """Read the file; where it cannot be read, that is a fault and `data` is None."""
        self.path = path
        self.data: Any = None
        self.root: yaml.Node | None = None
        self.faults: list[tuple[int, str]] = []
        try:
            self.parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.add_at_line(0, "is missing, expected a YAML file")
        except OSError as error:
            self.add_at_line(0, f"cannot be read ({error.strerror}), expected a YAML file")
        except UnicodeDecodeError:
            self.add_at_line(0, "expected text in UTF-8")

    def parse(self, text: str) -> None:
        try:
            loader = CatalogLoader(text)
            self.root = loader.get_single_node()
            if self.root is None:  # nothing but comments
                self.data = {}
                return
            for keys, line in duplicates(self.root):
                self.add_at_line(line, f"{dotted(keys)}: is there twice, expected once")
            data = loader.construct_document(self.root)
            self.data = {} if data is None else data
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.add_at_line(mark.line + 1 if mark else 0, f"is not YAML: {error.problem or error.context}")
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.add_at_line(line, f"is not YAML: it has the character {error.character!r}")
        except (ValueError, RecursionError) as error:
            self.add_at_line(0, f"is not YAML: {error}")

    def add(self, keys: Keys, what: str) -> None:
        """Note a fault at a key, or where the key should be."""
        self.add_at_line(line_of(self.root, keys), f"{dotted(keys)}: {what}" if keys else what)

    def add_at_line(self, line: int, what: str) -> None:
        """Note a fault; line 0 is the file as a whole."""
        self.faults.append((line, what))

    def report(self) -> list[str]:
        """List the faults in the order of their lines, each once."""
        return [
            f"{self.path}:{line}: {what}" if line else f"{self.path}: {what}"
            for line, what in sorted(dict.fromkeys(self.faults))
        ]


class CatalogLoader(yaml.SafeLoader):
    """YAML whose decimals are exactly what is written: 0.56 dollars have no binary noise."""

    def decimal(self, node: yaml.ScalarNode) -> Decimal | float:
        try:
            return Decimal(node.value.replace("_", ""))
        except InvalidOperation:  # .inf, .nan and 1:30.5 are floats in YAML too
            return self.construct_yaml_float(node)

    def day(self, node: yaml.ScalarNode) -> date | str:
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:  # 2026-02-30: stays text, which is no date where one is expected
            return node.value


CatalogLoader.add_constructor("tag:yaml.org,2002:float", CatalogLoader.decimal)
CatalogLoader.add_constructor("tag:yaml.org,2002:timestamp", CatalogLoader.day)


def duplicates(root: yaml.Node) -> Iterator[tuple[Keys, int]]:
    """Find keys that stand twice in the same mapping; YAML would let the last one win, silently."""
    seen: set[int] = set()  # an alias leads to a node that was visited, perhaps to one around it
    ahead: list[tuple[Keys, yaml.Node]] = [((), root)]
    while ahead:
        keys, node = ahead.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            known: set[str] = set()
            for key, value in node.value:
                inside = (*keys, str(key.value))
                if inside[-1] in known:
                    yield inside, key.start_mark.line + 1
                known.add(inside[-1])
                ahead.append((inside, value))
        elif isinstance(node, yaml.SequenceNode):
            ahead.extend(((*keys, index), value) for index, value in enumerate(node.value))


def line_of(root: yaml.Node | None, keys: Keys) -> int:
    """Find the line of a key, or of the last part of its path that is there; the first line is 1."""
    node, line = root, 0
    for step in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if str(key.value) == str(step)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = [(node.value[step], node.value[step])]
        else:
            break
        if not found:
            break
        marked, node = found[-1]
        line = marked.start_mark.line + 1
    return line


def dotted(keys: Keys) -> str:
    """Write a path as people do: models.kimi.prices[0].since."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def section(data: Any, name: str) -> Mapping[str, Mapping[str, Any]]:  # noqa: ANN401 - from YAML
    """Take the entries of a section as they stand in the file, without those that are no entries."""
    entries = data.get(name) if isinstance(data, Mapping) else None
    if not isinstance(entries, Mapping):
        return {}
    return {str(key): entry for key, entry in entries.items() if isinstance(entry, Mapping)}
