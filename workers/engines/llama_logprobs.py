"""The chances of an answer's tokens, as OpenAI's API tells them.

They are the model's own: before biases, penalties, temperature and whatever else chose among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.engines.llama_sampler import Row, likeliest


@dataclass(frozen=True)
class Measured:
    """One row of logits, as logarithms of chances."""

    row: Row
    all_chances: float
    """The logarithm of the sum of what the logits stand for."""
    top: list[int]

    def of(self, token: int) -> float:
        return float(self.row[token]) - self.all_chances


class Logprobs:
    """Gathers what is told of each token of one answer."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._tokens: list[tuple[int, float, list[tuple[int, float]]]] = []

    def measure(self, logits: Row) -> Measured:
        """Look at a row before the sampler changes it."""
        highest = float(logits.max())
        few = likeliest(logits, self._count) if self._count else np.empty(0, np.intp)
        top = few[np.argsort(-logits[few], kind="stable")[: self._count]]
        all_chances = highest + float(np.log(np.exp(logits - highest, dtype=np.float64).sum()))
        return Measured(logits.copy(), all_chances, top.tolist())

    def add(self, token: int, measured: Measured) -> None:
        """Keep what is told of a token of the answer."""
        top = [(each, measured.of(each)) for each in measured.top]
        self._tokens.append((token, measured.of(token), top))

    def told(self, text: str, piece: Callable[[int], bytes]) -> dict[str, Any]:
        """Write them as OpenAI does, without the tokens that a stop string took from the text."""
        left, content = len(text.encode()), list[dict[str, Any]]()
        for token, chance, top in self._tokens:
            if left <= 0 and piece(token):
                break
            left -= len(piece(token))
            others = [entry(piece(other), chance_of_other) for other, chance_of_other in top]
            content.append({**entry(piece(token), chance), "top_logprobs": others})
        return {"content": content, "refusal": None}


def entry(piece: bytes, chance: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": chance, "bytes": list(piece)}
