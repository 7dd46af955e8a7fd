"""What config refuses.

ConfigError
├── SettingsError   an environment variable holds what it cannot hold
└── CatalogError    the YAML files have faults; all of them in one report
"""

from collections.abc import Sequence


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
