"""How far the estimate of a prompt's tokens is from what a model counted, by model and script."""

from dataclasses import dataclass, field
from typing import NamedTuple

SEEN_BEFORE_BELIEVED = 20
"""Prompts after which an estimate is lowered; it is raised by the first one."""

MARGIN = 1.2
"""On the largest ratio that was seen: the next prompt may be denser."""


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

    def tokens(self, model: str, script: str, estimated: int) -> int:
        """Correct an estimate: down only after enough prompts of the same script, up at once."""
        known = self.seen.get((model, script))
        if known is None:
            return estimated
        ratio = known.largest * MARGIN
        if ratio < 1 and known.prompts < SEEN_BEFORE_BELIEVED:
            return estimated
        return max(1, round(estimated * ratio)) if ratio < 1 or known.largest > 1 else estimated
