"""What others wrote can be looked at without harm, and without being deceived."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from dashboard.text import VISIBLE, count, money, timed, visible, when


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("invoice\u202egpj.exe", "invoice[U+202E]gpj.exe"),
        ("a\u2066b\u2069c", "a[U+2066]b[U+2069]c"),
        ("bell\a, null\0", "bell␇, null␀"),
        ("same\u200bname", "same[U+200B]name"),
        ("\x9b31m", "[U+009B]31m"),
        ("line\r\nline\tend", "line\nline\tend"),
        ("مرحبا 👩‍👧 ﬁn", "مرحبا 👩‍👧 ﬁn"),
    ],
)
def test_characters_that_act_unseen_are_shown(hostile: str, shown: str):
    """An answer must not be able to look like another one, nor colour the terminal that it is pasted into."""
    assert visible(hostile) == shown


@given(st.text())
def test_markup_stays_markup_and_text_stays_text(text: str):
    """What was escaped once must not be escaped again, and what was not must not pass for it."""
    assert isinstance(visible(Markup("{}").format(text)), Markup)
    assert not isinstance(visible(text), Markup)


@given(st.text())
def test_what_is_shown_has_nothing_left_that_acts(text: str):
    """Once through is enough, also for text that was made to come out of it."""
    shown = str(visible(text))

    assert not set(map(ord, shown)) & set(VISIBLE)


def test_a_moment_in_a_sentence_becomes_a_time_and_the_rest_is_escaped():
    """Commands write UTC; the page shows the reader's own zone."""
    text = timed("<b>busy</b> (until 2026-11-23 18:41:33 UTC)")

    assert text == (
        "&lt;b&gt;busy&lt;/b&gt; (until "
        '<time datetime="2026-11-23T18:41:33+00:00">2026-11-23 18:41:33 UTC</time>)'
    )


def test_a_time_is_written_in_utc_for_who_has_no_script():
    at = datetime(2026, 11, 23, 18, 41, 33, tzinfo=UTC)

    assert when(at) == '<time datetime="2026-11-23T18:41:33+00:00">2026-11-23 18:41:33 UTC</time>'
    assert when(None) == ""


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "unknown"),
        (Decimal(0), "$0"),
        (Decimal("0.000000123"), "$0.00000012"),
        (Decimal("0.0996"), "$0.10"),
        (Decimal("0.126"), "$0.13"),
        (Decimal("-3.5"), "$-3.50"),
        (Decimal("12345.678"), "$12,345.68"),
    ],
)
def test_money_is_written_to_the_cent_and_small_sums_to_two_digits(usd: Decimal | None, text: str):
    """A call that cost a tenth of a cent must not look free, and an unknown price neither."""
    assert money(usd) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (12_345, "12.3 k"), (4_560_000, "4.56 M")]
)
def test_counts_are_short(number: int, text: str):
    assert count(number) == text
