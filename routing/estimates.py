"""How far the estimate of a prompt's tokens is from what a model counted, by model and script."""

from dataclasses import dataclass, field
from typing import NamedTuple

SEEN_BEFORE_BELIEVED = 20
"""Prompts after which an estimate is lowered; it is raised by the first one."""

MARGIN = 1.5
"""On the largest ratio that was seen: the next prompt may be denser."""

TELLING_SHARE = 0.8
"""A prompt tells of its script if so much of its estimate is for that."""

TELLING_TOKENS = 300
"""And if it is so long: of a short one, the template is the larger part."""


def is_telling(counted: int, estimated: int, wide: int) -> bool:
    """Tell whether a prompt says something about its script: it was mostly that, or was estimated too low."""
    return counted > estimated or (estimated >= TELLING_TOKENS and wide >= TELLING_SHARE * estimated)


class Seen(NamedTuple):
    """What was seen of one model and script."""

    prompts: int
    largest: float
    """Tokens counted for each token estimated."""


@dataclass
class Estimates:
    """The corrections, learned from the ledger."""

    seen: dict[tuple[str, str], Seen] = field(default_factory=dict[tuple[str, str], Seen])

    def learn(self, model: str, script: str, seen: Seen) -> None:
        """Take in prompts of one model and script."""
        known = self.seen.get((model, script), Seen(0, 0.0))
        total = Seen(known.prompts + seen.prompts, max(known.largest, seen.largest))
        self.seen[model, script] = total

    def tokens(self, model: str, script: str, estimated: int, wide: int) -> int:
        """Correct an estimate: down only for its wide part and after enough such prompts, up at once.

        Args:
            estimated: of the whole prompt.
            wide: the part of it that is for characters beyond ASCII.
        """
        known = self.seen.get((model, script))
        if known is None:
            return estimated
        if known.largest > 1:
            return round(estimated * known.largest * MARGIN)
        ratio = known.largest * MARGIN
        if ratio >= 1 or known.prompts < SEEN_BEFORE_BELIEVED:
            return estimated
        return estimated - int(wide * (1 - ratio))
