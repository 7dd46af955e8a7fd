"""Periods, read and written."""

import pytest

from config.periods import read_period, write_period


@pytest.mark.parametrize("text", ["1s", "90s", "15m", "90m", "1h", "25h", "1d", "400d"])
def test_a_period_is_written_as_people_write_it(text: str):
    """`0:15:00` is how Python says it, and nobody's file."""
    assert write_period(read_period(text)) == text


def test_the_largest_unit_that_fits_is_taken():
    """7200 seconds are two hours."""
    assert [write_period(read_period(text)) for text in ("7200s", "60m", "48h")] == ["2h", "1h", "2d"]
