"""Why something that a model needs is not on this host, as a sentence that ends with what to do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Absence:
    """A model that is not on this host, or cannot be used."""

    why: str
    what_to_do: str

    def __str__(self) -> str:
        return f"{self.why}; {self.what_to_do}"
