"""How many threads a step uses: all cores while they are free, fewer while others use them.

The threads of a step wait for each other several hundred times in it. A core that another program takes
for some milliseconds holds all of them up each time: measured on 2 cores beside one busy process, a step
of 8 answers took 400 to 800 ms on two threads, 80 ms on one, and 40 ms on two undisturbed.
"""

from collections import defaultdict

FIRST_REST_STEPS = 4
"""How many steps use fewer threads before more are tried again; doubled each time that fails."""

LONGEST_REST_STEPS = 256

NEWEST_SHARE = 0.3
"""How much of an average the newest step makes up."""


class ThreadCount:
    """Goes down to half the threads when they turn out to be faster, and up again after some steps.

    Steps are compared with steps of about the same size, as time for each token. One slow step may have any
    cause; with the second in a row, somebody else uses the cores.
    """

    def __init__(self, most: int) -> None:
        self._choices = halves(most)
        self._at = 0
        self._is_trial = False
        self._was_slow = False
        self._rest_steps = FIRST_REST_STEPS
        self._rest_left = 0
        self._average_s: defaultdict[int, dict[int, float]] = defaultdict(dict)
        """Seconds for each token, by number of threads and size of the step."""

    def choose(self, tokens: int) -> int:
        """Choose the threads for a step; sizes that half the threads never had are tried with them once."""
        fewer = self._fewer()
        self._is_trial = fewer is not None and size_class(tokens) not in self._average_s[fewer]
        return fewer if fewer is not None and self._is_trial else self._choices[self._at]

    def note(self, tokens: int, took_s: float) -> None:
        """Take in how long the step took for which the threads were chosen last."""
        size, each_s = size_class(tokens), took_s / tokens
        fewer = self._fewer()
        if self._is_trial and fewer is not None:
            self._average_s[fewer][size] = each_s
            return
        average = self._average_s[self._choices[self._at]]
        before = average.get(size, each_s)
        average[size] = before + NEWEST_SHARE * (each_s - before)
        is_slow = fewer is not None and each_s > self._average_s[fewer][size]
        if is_slow and self._was_slow:
            self._go_down()
        elif not is_slow:
            self._rest()
        self._was_slow = is_slow

    def _fewer(self) -> int | None:
        return self._choices[self._at + 1] if self._at + 1 < len(self._choices) else None

    def _go_down(self) -> None:
        self._at += 1
        self._rest_left = self._rest_steps
        self._rest_steps = min(self._rest_steps * 2, LONGEST_REST_STEPS)

    def _rest(self) -> None:
        """Count a step that went well: towards the next try, or towards shorter rests."""
        if self._at == 0:
            self._rest_steps = max(self._rest_steps - 1, FIRST_REST_STEPS)
            return
        self._rest_left -= 1
        if self._rest_left <= 0:
            self._at -= 1


def halves(most: int) -> list[int]:
    """List a number, its half, and so on down to 1."""
    choices = [most]
    while choices[-1] > 1:
        choices.append(choices[-1] // 2)
    return choices


def size_class(tokens: int) -> int:
    """Put sizes together that differ by less than a factor of two."""
    return tokens.bit_length()
