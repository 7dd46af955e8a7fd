"""One run: a storm of a seed, and what is found after it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.audit import Audit, Findings
from tests.chaos.disk import Disk
from tests.chaos.faults import plan_of
from tests.chaos.storm import Storm

PRODUCERS = 3


def run(
    home: Path,
    seed: int,
    *,
    seconds: float,
    tasks: int,
    kinds: Sequence[str],
    every_s: float,
    tell: Callable[[str], None],
    disk: Disk | None = None,
    is_poisonous: bool = False,
) -> Findings:
    """Let a storm rage over a fleet, wait until it has done all its tasks, and look what became of them.

    Args:
        home: an empty folder; the log of the fleet and the journal are there afterwards.
        seed: decides which faults come when, and what is enqueued.
        seconds: how long there are faults, and tasks are enqueued.
        tasks: how many.
        kinds: of faults, see `tests.chaos.faults`.
        every_s: between two faults, on average.
        disk: that `home / "data"` is, if it can be full.
        is_poisonous: whether one of the tasks kills every worker that runs it; this takes two minutes.
    """
    storm = Storm(home, seed, disk)
    began = time.monotonic()
    try:
        storm.begin(PRODUCERS, tasks, seconds, is_poisonous=is_poisonous)
        tell(f"seed {seed}: the fleet is up after {time.monotonic() - began:.1f} s")
        storm.rage(plan_of(seed, seconds, kinds, every_s), tell)
        tell(f"calm after {time.monotonic() - began:.1f} s")
        is_drained = storm.drain()
        tell(f"{'drained' if is_drained else 'NOT DRAINED'} after {time.monotonic() - began:.1f} s")
        storm.hear_out(set(Audit(storm).gone()))
        audit = Audit(storm)
        findings = audit.findings()
        tell(f"seed {seed}, {time.monotonic() - began:.0f} s")
        for line in findings.lines():
            tell(line)
        audit.dump(home / "ledger.txt")
        return findings
    finally:
        storm.close()
