"""Which calls run, and what the model reads in the next step. No llama.cpp here: only who is next."""

from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

from workers.engines.answer import Answer
from workers.engines.base import Completion, Request
from workers.engines.heads import Tokens
from workers.engines.llama_logprobs import Logprobs
from workers.engines.llama_prefix import Prefix, Prefixes
from workers.engines.llama_sampler import Sampler

READ_TOKENS = 64
"""A prompt is read in pieces of so many tokens, and while others answer no more than that in one step: a
long prompt must not stall them."""


class Cache(Protocol):
    """The key-value cache, as far as a schedule needs it."""

    def copy(self, source: int, goal: int) -> None:
        """Let a sequence begin with all that another one holds."""
        ...

    def forget(self, sequence: int, after: int = 0) -> bool:
        """Let a sequence forget all after its first tokens; false: it had to forget those too."""
        ...


@dataclass(eq=False)
class Call:
    """One call of `generate`, from the moment it is asked."""

    request: Request
    prompt: list[int]
    head: Tokens
    """Those first tokens of the prompt that other calls have too; empty: none."""
    on_token: Callable[[str], None]
    cancelled: Callable[[], bool]
    sampler: Sampler
    answer: Answer
    asked_at: float
    logprobs: Logprobs | None = None
    done: Future[Completion] = field(default_factory=Future[Completion])


@dataclass(eq=False)
class Run:
    """A call whose answer is being made, in a sequence of its own."""

    call: Call
    sequence: int
    cells: int
    """Room of a shared cache that it may fill."""
    prefix: Prefix | None
    unread: list[int]
    """Of the prompt, or the token just chosen: what the model has not read yet."""
    length: int
    """Tokens that the model has read."""
    cached_tokens: int
    tokens: int = 0
    """Tokens of the answer."""
    first_token_s: float | None = None


@dataclass(frozen=True)
class Reading:
    """What one sequence reads in a step."""

    by: Run | Prefix
    tokens: list[int]

    @property
    def answers(self) -> Run | None:
        """The run for which a token is chosen after the step: its prompt is then all read."""
        is_last = len(self.tokens) == len(self.by.unread)
        return self.by if isinstance(self.by, Run) and is_last else None


class Schedule:
    """Calls that wait, answers that are being made, and the beginnings that they share."""

    def __init__(self, cache: Cache, *, slots: int, prefixes: int, shared_cells: int | None) -> None:
        """Begin with nothing to do.

        Args:
            shared_cells: tokens that all sequences hold together; None: each has room of its own.
        """
        self.waiting: deque[Call] = deque()
        self.running: list[Run] = []
        self._cache = cache
        self._is_shared = shared_cells is not None
        self._free_cells = shared_cells or 0
        self._free_sequences = list(range(slots))
        self._heads: dict[int, Tokens] = {}
        """What free sequences still hold: the beginning that their last answer shared with others."""
        self._prefixes = Prefixes(range(slots, slots + prefixes))

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running)

    def admit(self) -> None:
        """Start the calls that wait longest, as far as there is room; the youngest wait.

        A call whose prefix is being read lets others pass; one that lacks room does not: it would
        wait for ever.
        """
        passed: list[Call] = []
        while self.waiting and self._free_sequences:
            call = self.waiting.popleft()
            prefix = self._prefix_of(call)
            if prefix is not None and not prefix.is_ready:
                passed.append(call)
                continue
            cells = self._cells_of(call, prefix)
            if not self._make_room(cells, prefix):
                passed.append(call)
                break
            self._start(call, prefix, cells)
        self.waiting.extendleft(reversed(passed))

    def next_batches(self, most_tokens: int) -> list[list[Reading]]:
        """Choose what is read in the next step: first what answers need, then prompts, oldest first.

        A matrix of one column is multiplied in another order than one of many, and rounds differently. So
        that an answer is the same whatever runs beside it, a prompt is always cut in the same places, and
        only readings of the same length share a batch: llama.cpp would cut the others to fit.

        Returns:
            Each in the order of sequences: a divided cache reads neighbours at once, others one by one.
        """
        batches: defaultdict[tuple[bool, int], list[Reading]] = defaultdict(list)
        for run in self.running:
            if run.tokens:
                batches[False, 1].append(Reading(run, run.unread))
        piece = min(READ_TOKENS, most_tokens)
        left = piece if batches else most_tokens
        for reader in (*self._prefixes, *(run for run in self.running if not run.tokens)):
            tokens = reader.unread[:piece]
            if len(tokens) > left:
                break
            if tokens:
                batches[True, len(tokens)].append(Reading(reader, tokens))
                left -= len(tokens)
        return [sorted(batch, key=lambda reading: reading.by.sequence) for batch in batches.values()]

    def finish_readings(self, readings: list[Reading]) -> None:
        """Note what the model has read."""
        for reading in readings:
            reading.by.unread = reading.by.unread[len(reading.tokens) :]
            if isinstance(reading.by, Run):
                reading.by.length += len(reading.tokens)

    def leave(self, run: Run) -> None:
        """End a run and give its room to others."""
        self.running.remove(run)
        self._keep_head(run)
        heappush(self._free_sequences, run.sequence)
        self._free_cells += run.cells
        if run.prefix is not None:
            run.prefix.users -= 1

    def forget_all(self) -> list[Call]:
        """End all that runs, and give up every prefix; the calls that ran."""
        calls = [run.call for run in self.running]
        for run in tuple(self.running):
            self.leave(run)
        for prefix in self._prefixes:
            self._drop(prefix)
        for sequence in tuple(self._heads):
            self._forget(sequence)
        return calls

    def _start(self, call: Call, prefix: Prefix | None, cells: int) -> None:
        sequence = heappop(self._free_sequences)  # the lowest one, so that those in use are neighbours
        self._free_cells -= cells
        read = cached = 0
        if prefix is None:
            self._forget(sequence)
        else:
            if self._heads.get(sequence) != prefix.tokens:
                self._forget(sequence)
                self._cache.copy(prefix.sequence, sequence)
            prefix.users += 1
            read = len(prefix.tokens)
            # Whoever comes first is the one for whom the prefix was computed.
            cached = read if prefix.is_paid else 0
            prefix.is_paid = True
        self.running.append(Run(call, sequence, cells, prefix, call.prompt[read:], read, cached))

    def _keep_head(self, run: Run) -> None:
        """Forget an answer, but not how it began: the next one in its sequence may well begin so too.

        To copy a beginning takes a divided cache as long as to copy a whole context: some milliseconds for
        1,000 tokens, and more for each thousand. In a shared one it takes nothing, and to keep it takes room.
        """
        if run.prefix is None or self._is_shared or not self._cache.forget(run.sequence, run.prefix.length):
            self._forget(run.sequence)
        else:
            self._heads[run.sequence] = run.prefix.tokens

    def _forget(self, sequence: int) -> None:
        self._heads.pop(sequence, None)
        self._cache.forget(sequence)

    def _prefix_of(self, call: Call) -> Prefix | None:
        """Find a call's prefix, or begin to keep it; None: it has none, or there is no room for one."""
        if not call.head:
            return None
        prefix = self._prefixes.get(call.head)
        if prefix is not None:
            return prefix
        idle = None if self._prefixes.has_room else self._prefixes.least_used()
        if idle is not None:
            self._drop(idle)
        cells = len(call.head) if self._is_shared else 0
        if not self._prefixes.has_room or not self._make_room(cells, None):
            return None
        self._free_cells -= cells
        return self._prefixes.add(call.head)

    def _cells_of(self, call: Call, prefix: Prefix | None) -> int:
        if not self._is_shared:
            return 0
        return len(call.prompt) + call.request.max_tokens - (len(prefix.tokens) if prefix else 0)

    def _make_room(self, cells: int, keep: Prefix | None) -> bool:
        """Give up prefixes that nobody needs now until there are so many free cells, if that helps."""
        while cells > self._free_cells:
            idle = self._prefixes.least_used(but=keep)
            if idle is None:
                return False
            self._drop(idle)
        return True

    def _drop(self, prefix: Prefix) -> None:
        self._prefixes.drop(prefix)
        self._cache.forget(prefix.sequence)
        self._free_cells += len(prefix.tokens) if self._is_shared else 0
