"""What workers refuses.

FleetError
└── EmbeddedServiceError   the embedded Redis or Postgres cannot be started or stopped
"""


class FleetError(Exception):
    """The fleet cannot do what it was asked."""


class EmbeddedServiceError(FleetError):
    """The embedded Redis or Postgres cannot be started or stopped."""

    def __init__(self, name: str, why: str, what_to_do: str) -> None:
        super().__init__(name, why, what_to_do)
        self.name = name
        self.why = why
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        return f"the embedded {self.name} {self.why}; {self.what_to_do}"
