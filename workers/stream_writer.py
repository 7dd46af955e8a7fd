"""Writes what models say into Redis while they say it, for those who read it: `workers.streaming`.

Nobody who reads is waited for, and an engine waits for nobody: it leaves its text in memory, and a thread
writes all that is new some twenty times a second, in one round trip.
"""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from threading import Event, Thread
from typing import Any, Literal

import structlog
from redis import Redis, RedisError

from ledger.attempts import Key
from workers.failure import printable
from workers.reconnecting import LONGEST_PAUSE_S
from workers.streaming import KEPT_S, key_of

EVERY_S = 0.05

REDIS_TIMEOUT_S = 5.0

MOST_CHARACTERS = 1_000_000
"""Of one attempt; what is beyond comes with the result."""

log = structlog.get_logger()


class Transcript:
    """What an attempt has said so far; kept while it runs, because a reader may come late."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.verdict: Literal["over", "void"] | None = None
        """Whether the task has ended with this attempt, or goes on without it; None: not known here."""
        self.is_old = False
        """The writer has seen it before: it is worth a look whether somebody reads it."""
        self.is_read = False
        """Somebody reads it, as far as the writer knows."""
        self.has_ended = False
        """The verdict will not change."""
        self._pieces: list[str] = []
        self._length = 0
        self._written = 0
        """Pieces that are in the stream."""
        self._position = 0
        """Characters that are."""

    def add(self, piece: str) -> None:
        """Take the next piece; called by the engine, which must not wait."""
        if self._length < MOST_CHARACTERS:
            self._pieces.append(piece[: MOST_CHARACTERS - self._length])
            self._length += len(piece)

    @property
    def is_judged(self) -> bool:
        return self.has_ended and self.verdict is not None

    @property
    def has_news(self) -> bool:
        return self.is_judged or len(self._pieces) > self._written

    def news(self) -> tuple[dict[Any, Any], int]:
        """Write an entry for what is new, and say up to which piece that is."""
        end = {"end": self.verdict} if self.is_judged else {}
        upto = len(self._pieces)
        text = printable("".join(self._pieces[self._written : upto]))
        return {"attempt": self.key[1], "at": self._position, "text": text, **end}, upto

    def wrote(self, upto: int) -> None:
        """Take note that the stream has all before a piece."""
        self._position += sum(map(len, self._pieces[self._written : upto]))
        self._written = upto

    def lost(self) -> None:
        """Take note that there is no stream any more: the next reader gets all from the start."""
        self.is_read, self._written, self._position = False, 0, 0


class StreamWriter:
    """A thread that writes the transcripts of what runs into those streams that somebody has made."""

    def __init__(self, redis_url: str) -> None:
        self.redis = Redis.from_url(
            redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )
        self.live: dict[Key, Transcript] = {}
        self.ended: deque[Transcript] = deque()
        self.begun = Event()
        self.is_due = Event()
        """Set: a transcript that somebody reads has ended."""
        self.closing = Event()
        self.thread = Thread(target=self.run, name="streams", daemon=True)
        self.thread.start()

    def begin(self, key: Key) -> Transcript:
        """Begin the transcript of an attempt."""
        self.live[key] = transcript = Transcript(key)
        if not self.begun.is_set():
            self.begun.set()
        return transcript

    def end(self, transcript: Transcript) -> None:
        """End a transcript; a reader hears of it at once."""
        del self.live[transcript.key]
        transcript.has_ended = True
        if transcript.is_read and transcript.is_judged:
            self.ended.append(transcript)
            self.is_due.set()

    def run(self) -> None:
        """Go on until `close`."""
        pause_s = EVERY_S
        while not self.closing.is_set():
            if not self.live and not self.ended:
                self.begun.wait()
            self.begun.clear()
            self.is_due.wait(pause_s)
            self.is_due.clear()
            try:
                self.once()
                pause_s = EVERY_S
            except RedisError as error:
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                log.warning("stream_not_written", error=type(error).__name__, again_in_s=round(pause_s, 1))
        with suppress(RedisError):
            self.redis.close()

    def once(self) -> None:
        """Write what is new."""
        ended = [self.ended.popleft() for _ in range(len(self.ended))]
        live = list(self.live.values())
        self.look([transcript for transcript in live if transcript.is_old and not transcript.is_read])
        for transcript in live:
            transcript.is_old = True
        there = dict.fromkeys((*ended, *live))
        self.write([transcript for transcript in there if transcript.is_read and transcript.has_news])

    def look(self, unread: list[Transcript]) -> None:
        """Look which of them somebody reads."""
        if not unread:
            return
        with self.redis.pipeline(transaction=False) as pipe:
            for transcript in unread:
                pipe.exists(key_of(transcript.key[0]))
            for transcript, is_read in zip(unread, pipe.execute(), strict=True):
                transcript.is_read = bool(is_read)

    def write(self, read: Iterable[Transcript]) -> None:
        """Write what is new of each; a stream that has gone is not made again by who writes."""
        written: list[tuple[Transcript, int]] = []
        with self.redis.pipeline(transaction=False) as pipe:
            for transcript in read:
                entry, upto = transcript.news()
                written.append((transcript, upto))
                pipe.xadd(key_of(transcript.key[0]), entry, nomkstream=True)
                pipe.expire(key_of(transcript.key[0]), KEPT_S)
            ids = pipe.execute()[::2] if written else ()
        for (transcript, upto), is_there in zip(written, ids, strict=True):
            if is_there:
                transcript.wrote(upto)
            else:
                transcript.lost()

    def close(self) -> None:
        """End; nothing runs any more."""
        self.closing.set()
        self.begun.set()
        self.is_due.set()
        self.thread.join(REDIS_TIMEOUT_S)
