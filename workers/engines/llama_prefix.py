"""Beginnings that prompts share: a profile's system prompt is computed once and then copied."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from workers.engines.heads import Tokens


@dataclass(eq=False)
class Prefix:
    """A shared beginning, kept in a sequence of its own."""

    sequence: int
    tokens: Tokens
    unread: list[int] = field(default_factory=list[int])
    """Those of `tokens` that the model has not read yet."""
    users: int = 0
    """Answers being made that began with it."""
    is_paid: bool = False
    """Whether an answer has counted the work of computing it."""

    @property
    def is_ready(self) -> bool:
        return not self.unread

    @property
    def length(self) -> int:
        """How many of its tokens the model has read."""
        return len(self.tokens) - len(self.unread)


class Prefixes:
    """The shared beginnings of one engine, as many as it has sequences for, the last used one last."""

    def __init__(self, sequences: Sequence[int]) -> None:
        self._free = list(sequences)
        self._kept: OrderedDict[Tokens, Prefix] = OrderedDict()

    def __iter__(self) -> Iterator[Prefix]:
        return iter(tuple(self._kept.values()))

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    def get(self, tokens: Tokens) -> Prefix | None:
        """Find one; it is the last used one from now on."""
        prefix = self._kept.get(tokens)
        if prefix is not None:
            self._kept.move_to_end(tokens)
        return prefix

    def add(self, tokens: Tokens) -> Prefix:
        """Begin to keep one, where there is room; the model has yet to read it."""
        prefix = self._kept[tokens] = Prefix(self._free.pop(), tokens, list(tokens))
        return prefix

    def least_used(self, but: Prefix | None = None) -> Prefix | None:
        """Find the one to give up, if any: nobody needs it now, and its last use was the longest ago."""
        return next((each for each in self if each.is_ready and not each.users and each is not but), None)

    def drop(self, prefix: Prefix) -> None:
        """Give one up."""
        del self._kept[prefix.tokens]
        self._free.append(prefix.sequence)
