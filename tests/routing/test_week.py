"""The week of benchmarks/policy.py, once for each quota: what it publishes must stay true."""

import pytest

from benchmarks.policy import compare, lost, saved_share


@pytest.mark.parametrize("requests_per_day", [50, 1000])
def test_a_week_of_agent_work_costs_little_and_loses_nothing(requests_per_day: int):
    """A change of routing that pays more, waits too long or loses a task looks harmless elsewhere."""
    fleet, all_on_kimi, *gateways = compare(1, requests_per_day)

    assert saved_share([fleet], [all_on_kimi]) >= 0.94
    assert (lost(fleet), fleet.missed, fleet.useless) == (0, 0, 0)
    assert {tally.tasks for tally in (fleet, all_on_kimi, *gateways)} == {2296}
