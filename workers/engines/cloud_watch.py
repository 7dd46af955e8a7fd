"""How long a call has been silent: the limits on its first token, its next token and the whole of it."""

import time
from collections.abc import Callable

CONNECT_S = 10.0
"""The longest that a connection may take to be made."""

END_S = 2.0
"""How long the end of a stream is waited for, once the answer is whole."""


class TooLateError(Exception):
    """A limit was reached; says which."""


class CalledOffError(Exception):
    """Nobody wants the answer any more."""


class Watch:
    """The deadlines of one call. Whatever blocks asks `left` how long it may."""

    def __init__(
        self,
        first_token_s: float,
        between_tokens_s: float,
        total_s: float,
        cancelled: Callable[[], bool],
    ) -> None:
        self._began = time.monotonic()
        self._between_s = between_tokens_s
        self._ends = self._began + total_s
        self._is_cancelled = cancelled
        self._due = min(self._began + first_token_s, self._ends)
        self._awaited = f"no first token within {first_token_s:g} s"
        self._if_total = f"no end of the answer within {total_s:g} s"
        self.first_token_s: float | None = None

    def left(self) -> float:
        """Tell how many seconds may pass before something has to come.

        Raises:
            TooLateError: none.
            CalledOffError: nobody waits any more.
        """
        if self._is_cancelled():
            raise CalledOffError
        left = self._due - time.monotonic()
        if left <= 0:
            raise TooLateError(self._if_total if self._due == self._ends else self._awaited)
        return left

    def token(self) -> None:
        """Take note that the answer has grown."""
        now = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = now - self._began
            self._awaited = f"no next token within {self._between_s:g} s"
        self._due = min(now + self._between_s, self._ends)

    def whole(self) -> None:
        """Take note that the answer is whole: what may still come is its usage."""
        self._due = min(time.monotonic() + END_S, self._ends)
