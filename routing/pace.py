"""How long a model takes for a task, learned from the attempts that succeeded."""

from typing import NamedTuple

LEARNING_RATE = 0.2
"""Weight of the newest attempt in the running average."""

AHEAD_S = 0.25
"""How much work may lie somewhere beyond its slots, so that a fast worker never waits for more.

A slow model gets none: its next task is bound only when a slot is free, and can change its mind until then.
"""

DEFAULT_SERVICE_S = 30.0
"""What a model needs for a task, as long as none has been seen at work."""

MARGIN_S = 1.0
"""For the ways between the processes."""


class Pace(NamedTuple):
    """Running averages of one model."""

    queue_s: float
    """From the placement to the claim."""
    first_token_s: float
    """From the claim to the first token."""
    token_s: float
    """For each further token."""

    def learn(self, seen: "Pace") -> "Pace":
        """Give the average after one more attempt."""
        return Pace(*(average(old, new) for old, new in zip(self, seen, strict=True)))

    def needed_s(self, max_tokens: int) -> float:
        """Tell how long an answer of so many tokens takes, from its placement on."""
        return self.queue_s + self.first_token_s + self.token_s * max_tokens + MARGIN_S


def seen_pace(queue_s: float, run_s: float, first_token_s: float | None, completion_tokens: int) -> Pace:
    """Give the pace of one attempt; where nobody timed the first token, it came like the others."""
    first_s = run_s / (completion_tokens + 1) if first_token_s is None else min(first_token_s, run_s)
    return Pace(queue_s, first_s, (run_s - first_s) / max(completion_tokens, 1))


def average(before: float | None, seen: float) -> float:
    """Give a running average after one more value; before the first one it is None."""
    return seen if before is None else before + LEARNING_RATE * (seen - before)


def places(slots: int, service_s: float | None, most_ahead: int) -> int:
    """Count the attempts that may lie where so many run at once: more than that, if they are short.

    Args:
        slots: attempts that run at once.
        service_s: how long one takes; None: nobody knows.
        most_ahead: so many beyond the slots at most.
    """
    ahead = 0 if service_s is None else int(slots * AHEAD_S / max(service_s, 1e-6))
    return slots + min(ahead, most_ahead)
