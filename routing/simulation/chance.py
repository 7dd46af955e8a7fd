"""Chance out of a seed: the same seed and name give the same draw, whoever asks and in whatever order."""

import math
from hashlib import blake2b


def chance(seed: int, *name: object) -> float:
    """Draw a number from 0 up to, but not including, 1.

    Args:
        seed: of the whole simulation.
        name: what is drawn, e.g. a task, the number of its attempt and "first token".
    """
    text = "\0".join(map(str, (seed, *name)))
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest()) / 2**48


def spread(drawn: float) -> float:
    """Turn a draw into a factor for a time: at least a half, 1 on average, now and then a few times that."""
    return 0.5 - 0.5 * math.log(1 - drawn)
