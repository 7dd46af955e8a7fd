"""The text of an answer while it grows."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.engines.answer import Answer

LETTERS = st.text("abc", max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def shown(pieces: list[bytes], stop: list[str]) -> list[str]:
    answer = Answer(stop)
    given_out: list[str] = []
    for piece in pieces:
        given_out.append(answer.add(piece))
        if answer.is_stopped:
            break
    given_out.append(answer.finish())
    assert "".join(given_out) == answer.text
    return given_out


def test_a_stop_string_in_two_pieces_is_cut_off():
    """Tokens do not end where stop strings do; half of one must never reach the caller."""
    assert shown([b"one EN", b"D two"], ["END"]) == ["one ", "", ""]


def test_what_only_looked_like_a_stop_string_is_shown():
    """Held-back text that is then forgotten would leave a hole in the answer."""
    assert shown([b"one EN", b"TRY"], ["END"]) == ["one ", "ENTRY", ""]


def test_what_is_held_back_at_the_end_is_shown():
    """An answer that ends in the first half of a stop string still ends there."""
    assert shown([b"one EN"], ["END"]) == ["one ", "EN"]


def test_the_stop_string_that_begins_first_wins():
    """With two stop strings in one piece, the later one must not let the earlier one through."""
    assert shown([b"a STOP b END"], ["END", "STOP"]) == ["a ", ""]


def test_a_character_in_two_pieces_is_shown_whole():
    """A piece with half an emoji would show a replacement character and break JSON encoders."""
    emoji = "🦊".encode()

    assert shown([emoji[:2], emoji[2:]], []) == ["", "🦊", ""]


def test_half_a_character_at_the_end_is_left_out():
    """max_tokens may cut an emoji in two; the caller gets text, not a replacement character."""
    assert "".join(shown([b"ok ", "🦊".encode()[:3]], [])) == "ok "


@given(LETTERS, STOPS, st.data())
def test_any_cut_into_pieces_gives_the_same_text(text: str, stop: list[str], data: st.DataObject):
    """Where tokens end is chance; what the caller reads must not depend on it.

    Piece by piece a stop string is seen when it is complete, so of two that overlap the one that ends
    first wins: that is what letter by letter gives, and it is never more text than the whole at once.
    """
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b].encode() for a, b in pairwise(edges)]

    seen = "".join(shown(pieces, stop))

    assert text.startswith(seen)
    assert not any(one in seen for one in stop)
    if not any(one in text for one in stop):
        assert seen == text
