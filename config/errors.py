"""What config refuses.

ConfigError
├── SettingsError      an environment variable holds what it cannot hold
├── CatalogError       the YAML files have faults; all of them in one report
└── UnknownNameError   the catalog has no model, profile or focus of that name
"""

from collections.abc import Sequence
from difflib import get_close_matches


class ConfigError(Exception):
    """The fleet's configuration cannot be used as it stands."""


class SettingsError(ConfigError):
    """An environment variable holds what it cannot hold."""

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(name, value, expected)
        self.name = name
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}, expected {self.expected}; set it or unset it"


class CatalogError(ConfigError):
    """The YAML files have faults; each one names its file, its key and what was expected."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(list(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        return "\n  ".join([f"the catalog has {count}:", *self.faults])


class UnknownNameError(ConfigError):
    """The catalog has no model, profile or focus of that name."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(kind, name, list(known))
        self.kind = kind
        self.name = name
        self.known = tuple(known)

    @property
    def closest(self) -> str | None:
        """The known name that was probably meant; None: none is alike."""
        return closest_of(self.name, self.known)

    def __str__(self) -> str:
        meant = f"did you mean {self.closest!r}? " if self.closest else ""
        return f"no {self.kind} is named {self.name!r}; {meant}known: {', '.join(self.known) or 'none'}"


def closest_of(name: str, known: Sequence[str]) -> str | None:
    """Find the known name that is most like another one; None: none is alike."""
    return next(iter(get_close_matches(name, known, n=1)), None)
