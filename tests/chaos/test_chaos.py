"""A small storm, the same one each time; `make chaos` has larger ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.run import run

SEED = 4

NEEDS_ROOT = ("full_disk",)


@pytest.mark.timeout(600)
def test_nothing_is_lost_run_twice_or_charged_too_little(short_folder: Callable[[], Path]):
    """Every one of these faults happens to somebody in the first month."""
    findings = run(
        short_folder(),
        SEED,
        seconds=40,
        tasks=450,
        kinds=[kind for kind in KINDS if kind not in NEEDS_ROOT],
        every_s=3.2,
        tell=print,
    )

    assert findings.is_clean
    assert findings.faults.keys() == KINDS.keys() - set(NEEDS_ROOT)
