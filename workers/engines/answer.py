"""The text of an answer while it grows: whole characters only, and nothing from a stop string on."""

import codecs
from collections.abc import Sequence


class Answer:
    """Takes an answer's bytes as they are made and gives out the text that may be shown.

    What may be the beginning of a stop string is held back until it is known to be none. A character
    that is still missing bytes is held back too; if they never come, it is left out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.is_stopped = False
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown: list[str] = []
        self._held = ""

    @property
    def text(self) -> str:
        """All that was given out so far."""
        return "".join(self._shown)

    def add(self, piece: bytes) -> str:
        """Take the next bytes; the result is the text that they set free, often none.

        A stop string begins in what is held back or later, so nothing before that is searched again.
        """
        self._held += self._decoder.decode(piece)
        starts = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if starts:
            self.is_stopped = True
            return self._show(min(starts))
        return self._show(len(self._held) - beginning_of_a_stop(self._held, self._stop))

    def finish(self) -> str:
        """Give out what is held back: no stop string will come of it any more."""
        return "" if self.is_stopped else self._show(len(self._held))

    def _show(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        if shown:
            self._shown.append(shown)
        return shown


def beginning_of_a_stop(text: str, stop: Sequence[str]) -> int:
    """Measure the longest end of a text that is the beginning, but not all, of a stop string."""
    longest = max((len(one) for one in stop), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(len(one) > length and one.startswith(end) for one in stop):
            return length
    return 0
