"""The tokens that prompts share: what the chat template makes of a profile's system message."""

from collections.abc import Callable, Sequence

from workers.engines.base import Message

Tokens = tuple[int, ...]

SHORTEST_HEAD_TOKENS = 32
"""Below this, computing a shared head again costs less than keeping it."""

KEPT_HEADS = 64


class Heads:
    """The beginnings of prompts, by system message."""

    def __init__(self, render: Callable[[Sequence[Message]], Sequence[int]]) -> None:
        """Begin with none.

        Args:
            render: makes a prompt's tokens out of a conversation.
        """
        self._render = render
        self._known: dict[str, Tokens] = {}

    def of(self, messages: Sequence[Message], prompt: Sequence[int]) -> Tokens:
        """Find the tokens that every conversation with the same system message begins with.

        Args:
            prompt: the rendered messages.

        Returns:
            Empty where there is no system message, or too little in common to be worth keeping.
        """
        first = messages[0]
        if first["role"] not in ("system", "developer"):
            return ()
        head = self._known.get(str(first["content"]))
        if head is None or tuple(prompt[: len(head)]) != head:
            # Unknown, or the template writes the date and a day has passed.
            head = self._common(first)
            if len(self._known) >= KEPT_HEADS:
                self._known.clear()
            self._known[str(first["content"])] = head
        fits = SHORTEST_HEAD_TOKENS <= len(head) < len(prompt) and tuple(prompt[: len(head)]) == head
        return head if fits else ()

    def _common(self, system: Message) -> Tokens:
        """Render two conversations that differ from the user's first character on; any template will do."""
        one = self._render([system, {"role": "user", "content": "A?"}])
        other = self._render([system, {"role": "user", "content": "7 x"}])
        same = 0
        for left, right in zip(one, other, strict=False):
            if left != right:
                break
            same += 1
        return tuple(one[:same])
