"""What a reader makes of a stream whose entries come twice, late, or not at all."""

from uuid import uuid4

import pytest

from workers.errors import StreamRestartedError
from workers.stream_writer import MOST_CHARACTERS, Transcript
from workers.streaming import Heard


def entry(attempt: int, at: int, text: str, **end: str) -> dict[str, str]:
    return {"attempt": str(attempt), "at": str(at), "text": text, **end}


def an_answer(attempts: int, text: str) -> dict[str, object]:
    return {"choices": [{"message": {"content": text}}], "fleet": {"attempts": attempts}}


def test_what_comes_twice_is_given_out_once():
    """A worker that does not know whether Redis has an entry writes it again."""
    heard = Heard("task")

    assert heard.take([{"opened": "1"}, entry(1, 0, "one ")]) == "one "
    assert heard.take([entry(1, 0, "one two ")]) == "two "
    assert heard.take([entry(1, 0, "one "), entry(1, 8, "three", end="over")]) == "three"
    assert heard.is_whole
    assert heard.rest_of(an_answer(1, "one two three")) == ""


def test_what_is_missing_comes_with_the_result():
    """Text out of order is worse than text that comes late."""
    heard = Heard("task")

    assert heard.take([entry(1, 0, "one ")]) == "one "
    assert heard.take([entry(1, 8, "three ")]) == ""
    assert heard.rest_of(an_answer(1, "one two three ")) == "two three "


def test_void_text_that_nobody_has_seen_is_left_out():
    """Who opens a stream after the first attempt failed has nothing to drop."""
    heard = Heard("task")

    assert heard.take([entry(1, 0, "half"), entry(1, 4, "", end="void"), entry(2, 0, "whole")]) == "whole"


@pytest.mark.parametrize(
    "entries",
    [[entry(1, 3, "", end="void")], [entry(2, 0, "new")], [entry(1, 3, "more"), entry(2, 0, "new")]],
    ids=["failed", "lost with its worker", "both at once"],
)
def test_void_text_that_was_given_out_is_called_back(entries: list[dict[str, str]]):
    """The worker says so; or it died, and the next attempt does."""
    heard = Heard("task")
    heard.take([entry(1, 0, "old")])

    with pytest.raises(StreamRestartedError):
        heard.take(entries)


def test_a_result_of_another_attempt_calls_back_what_was_given_out():
    """The second attempt was over before anybody looked."""
    heard = Heard("task")
    heard.take([entry(1, 0, "old")])

    with pytest.raises(StreamRestartedError):
        heard.rest_of(an_answer(2, "new"))


def test_a_worker_that_was_given_up_is_not_listened_to():
    """It was paused, woke up, and talks on."""
    heard = Heard("task")

    assert heard.take([entry(2, 0, "new ")]) == "new "
    assert heard.take([entry(1, 0, "old text"), entry(2, 4, "text")]) == "text"


def test_a_transcript_is_bounded():
    """Sixteen slots that keep a book each would fill a small host."""
    transcript = Transcript((uuid4(), 1))

    for _ in range(40):
        transcript.add("x" * 50_000)

    entry, _ = transcript.news()
    assert len(entry["text"]) == MOST_CHARACTERS


def test_a_stream_that_went_is_written_from_the_start():
    """Whoever makes it again has missed what was in it."""
    transcript = Transcript((uuid4(), 1))
    transcript.add("one ")
    transcript.wrote(transcript.news()[1])
    transcript.add("two")
    assert (transcript.news()[0]["at"], transcript.news()[0]["text"]) == (4, "two")

    transcript.lost()

    assert (transcript.news()[0]["at"], transcript.news()[0]["text"]) == (0, "one two")
