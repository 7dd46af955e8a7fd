"""The simulator: it loses nobody, gives the same for the same seed, and providers count for themselves."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.models import Model, Provider
from routing.lessons import FAULTS_THAT_END
from routing.simulation.chance import chance, spread
from routing.simulation.meter import Meter
from routing.simulation.policies import (
    Arrival,
    Fleet,
    Policy,
    all_paid,
    immediate_fallback,
    retry_with_backoff,
)
from routing.simulation.run import LEASE, simulate
from routing.simulation.tally import Tally
from routing.simulation.world import Outage, World, random_outages
from routing.task import Needs
from tests.routing.made import NOW, SECOND, a_catalog, a_model, a_paid_model, a_profile, a_task, limits

HOUR = timedelta(hours=1)

ACCOUNT = Provider(
    name="account", limits=limits(requests_per_minute=4, requests_per_day=12, tokens_per_minute=5000)
)
MAC = a_model("mac", engine="mlx", memory_gb=2.1)
FREE = a_model("free", tier="free", provider="account")
OTHER = a_model("other", tier="free", provider="account", limits=limits(requests_per_minute=2))
PAID = a_paid_model("paid", limits=limits(concurrency=3))
CATALOG = a_catalog(
    MAC,
    FREE,
    OTHER,
    PAID,
    providers=(ACCOUNT,),
    profiles=(
        a_profile("cheap", "free", fallbacks=("other",), patience_s=600),
        a_profile("local", "mac", fallbacks=("free",), patience_s=60),
        a_profile("critical", "paid", fallbacks=("free",), patience_s=5),
        a_profile("any", "free", fallbacks=("other", "mac", "paid"), patience_s=300),
    ),
    primary="paid",
)

SUBJECTS = ("account", "free", "paid", "mlx.mac", "free.account")


def an_arrival(number: int, at: datetime, profile: str = "any", **fields: Any) -> Arrival:
    task = a_task(
        id=UUID(int=number + 1),
        profile=profile,
        accepted_at=at,
        needs=Needs(prompt_tokens=200, max_tokens=300),
        **fields,
    )
    return Arrival(task, 100 + number % 100, 50 + 10 * (number % 20))


@st.composite
def workloads(draw: st.DrawFn) -> list[Arrival]:
    """Draw bursts of tasks around a midnight, some with deadlines, some not to be run at once."""
    begin = NOW.replace(hour=23, minute=50)
    found: list[Arrival] = []
    for number in range(draw(st.integers(1, 40))):
        at = begin + SECOND * draw(st.integers(0, 1500))
        deadline = draw(st.sampled_from([None, None, 20, 300, 3600]))
        after = draw(st.sampled_from([None, None, None, 90]))
        found.append(
            an_arrival(
                number,
                at,
                draw(st.sampled_from(sorted(CATALOG.profiles))),
                agent=draw(st.sampled_from(["a", "b"])),
                priority=draw(st.integers(0, 2)),
                deadline=None if deadline is None else at + SECOND * deadline,
                not_before=None if after is None else at + SECOND * after,
            )
        )
    return found


@st.composite
def outages(draw: st.DrawFn) -> list[Outage]:
    """Draw up to four outages, which may lie in each other."""
    begin = NOW.replace(hour=23, minute=45)
    return [
        Outage(
            draw(st.sampled_from(SUBJECTS)),
            at := begin + SECOND * draw(st.integers(0, 1800)),
            at + SECOND * draw(st.integers(1, 3600)),
            draw(st.sampled_from(["fault", "rate_limit"])),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]


def all_policies() -> list[Policy]:
    return [
        Fleet(CATALOG),
        all_paid(CATALOG, "paid"),
        immediate_fallback(CATALOG),
        retry_with_backoff(CATALOG),
    ]


@settings(max_examples=60, deadline=None)
@given(arrivals=workloads(), down=outages(), seed=st.integers(0, 5))
def test_every_task_has_exactly_one_end(arrivals: list[Arrival], down: list[Outage], seed: int):
    """A simulator that drops tasks flatters the policy that needs them dropped."""
    world = World(CATALOG, seed, slots={"mlx.mac": 2, "free.account": 3, "paid": 5}, outages=down)

    for policy in all_policies():
        tally = simulate(world, policy, arrivals)

        assert tally.tasks == len(arrivals)
        assert tally.succeeded == len(tally.waits_s) == tally.answered_by.total()
        assert tally.calls.total() >= tally.succeeded


@settings(max_examples=60, deadline=None)
@given(arrivals=workloads(), down=outages(), seed=st.integers(0, 5))
def test_the_fleet_makes_no_request_that_a_known_limit_turns_away(
    arrivals: list[Arrival], down: list[Outage], seed: int
):
    """The provider counts by its own clock, in its own order, and each useless request costs quota."""
    world = World(CATALOG, seed, slots={"mlx.mac": 2, "free.account": 30, "paid": 30}, outages=down)

    assert simulate(world, Fleet(CATALOG), arrivals).useless == 0


def test_the_same_seed_gives_the_same_week_and_another_one_another():
    """Two configs can only be compared in the same world."""
    arrivals = [an_arrival(number, NOW + 20 * SECOND * number) for number in range(60)]

    def run(seed: int) -> Tally:
        return simulate(World(CATALOG, seed), Fleet(CATALOG), arrivals)

    assert run(1) == run(1)
    assert run(1).waits_s != run(2).waits_s


def test_exhausted_quota_costs_one_useless_request():
    """Sixty tasks arrive after somebody else used the account up: one finds out, the others are spared."""
    arrivals = [an_arrival(number, NOW, "cheap") for number in range(60)]
    gone = Outage("account", NOW - HOUR, NOW + 8 * HOUR, "quota")

    world = World(CATALOG, outages=[gone], fault_rate={})

    tally = simulate(world, Fleet(CATALOG), arrivals)
    beside = simulate(world, immediate_fallback(CATALOG), arrivals)

    assert tally.faulty == 1
    assert beside.faulty == 120


def test_a_limit_that_the_catalog_does_not_know_costs_requests_but_no_task():
    """Single models have been seen limited below their account."""
    arrivals = [an_arrival(number, NOW + SECOND * number, "cheap") for number in range(12)]
    world = World(CATALOG, limits={"free": limits(requests_per_minute=1)}, fault_rate={})

    tally = simulate(world, Fleet(CATALOG), arrivals)

    assert tally.succeeded == 12
    assert tally.useless > 0


def test_a_request_on_its_way_at_midnight_counts_for_the_day_on_which_it_arrives():
    """The provider's day begins while the claim still is of the day before."""
    midnight = NOW.replace(hour=0) + 24 * HOUR
    late = [an_arrival(number, midnight - SECOND / 5, "cheap") for number in range(4)]
    proof = an_arrival(50, midnight - 120 * SECOND, "cheap")
    next_day = [an_arrival(10 + number, midnight + HOUR, "cheap") for number in range(12)]
    world = World(CATALOG, fault_rate={})

    tally = simulate(world, Fleet(CATALOG), [proof, *late, *next_day])

    assert tally.useless == 0


def test_a_worker_that_goes_to_sleep_loses_no_task():
    """A Mac is closed in the middle of an answer."""
    arrivals = [an_arrival(number, NOW, "local") for number in range(6)]
    asleep = Outage("mlx.mac", NOW + SECOND, NOW + HOUR)

    tally = simulate(World(CATALOG, outages=[asleep], fault_rate={}), Fleet(CATALOG), arrivals)

    assert tally.faulty > 0
    assert tally.succeeded == 6
    assert max(tally.waits_s) >= LEASE.total_seconds()


def test_a_task_that_loses_its_workers_again_and_again_fails():
    """The fleet gives up on it, and so must its image."""
    # Each a second after the task begins again, when the lease of the one before is over.
    begins = [NOW + SECOND + nap * (LEASE + SECOND) for nap in range(5)]
    naps = [Outage("mlx.mac", begin, begin + SECOND) for begin in begins]
    world = World(CATALOG, slots={"free.account": 0, "paid": 0}, outages=naps, fault_rate={})

    tally = simulate(world, Fleet(CATALOG), [an_arrival(19, NOW, "local")])

    assert (tally.failed, tally.faulty) == (1, 3)


def test_immediate_fallback_loses_what_the_fleet_waits_for():
    """This is what the project is for: five minutes without a provider are no reason to lose a task."""
    arrivals = [an_arrival(number, NOW + 5 * SECOND * number, "cheap") for number in range(4)]
    down = Outage("account", NOW - SECOND, NOW + 300 * SECOND, "rate_limit")
    world = World(CATALOG, outages=[down], fault_rate={})

    assert simulate(world, immediate_fallback(CATALOG), arrivals).failed == 4
    assert simulate(world, Fleet(CATALOG), arrivals).succeeded == 4


@pytest.mark.parametrize("count", [1, 6])
def test_an_outage_of_the_only_model_loses_no_task(count: int):
    """Two failures within a second ended tasks that had all day."""
    lone = a_paid_model("lone")
    catalog = a_catalog(lone, profiles=(a_profile("only", "lone", fallbacks=()),))
    arrivals = [an_arrival(number, NOW, "only") for number in range(count)]
    down = Outage("lone", NOW - SECOND, NOW + 900 * SECOND)

    tally = simulate(World(catalog, outages=[down], fault_rate={}), Fleet(catalog), arrivals)

    assert tally.succeeded == count
    assert max(tally.waits_s) < 900 + 400
    assert tally.faulty < 20


def test_a_service_that_always_fails_ends_a_task():
    """The task itself may be what it fails on, and would be tried for ever."""
    lone = a_paid_model("lone")
    catalog = a_catalog(lone, profiles=(a_profile("only", "lone", fallbacks=()),))
    world = World(catalog, fault_rate={"paid": 1.0})

    tally = simulate(world, Fleet(catalog), [an_arrival(0, NOW, "only")])

    assert (tally.failed, tally.faulty) == (1, FAULTS_THAT_END)


def test_all_paid_pays_for_what_is_free():
    """The bill that the others are measured against."""
    arrivals = [an_arrival(0, NOW, "local")]
    world = World(CATALOG, fault_rate={})

    dear = simulate(world, all_paid(CATALOG, "paid"), arrivals)
    ours = simulate(world, Fleet(CATALOG), arrivals)

    assert f"{dear.usd:f}" == "0.000203000"  # 100 tokens at 0.56 and 50 at 2.94 dollars a million
    assert dear.usd_by_profile == {"local": dear.usd}
    assert ours.usd == 0


def test_a_task_that_no_model_suits_fails_with_the_reason():
    """Another config may lack what a recorded task needs."""
    unknown = an_arrival(0, NOW, "gone")
    huge = Arrival(a_task(id=UUID(int=9), needs=Needs(10**7, 10), accepted_at=NOW), 10**7, 10)

    tally = simulate(World(CATALOG), Fleet(CATALOG), [unknown, huge])

    assert tally.failed == 2
    assert any("no profile is named 'gone'" in why for why in tally.reasons)
    assert any("its context has" in why for why in tally.reasons)


def test_a_task_that_nobody_serves_is_still_waiting_at_the_end():
    """A simulation ends, also where a fleet would wait for ever."""
    arrivals = [an_arrival(0, NOW, "local", deadline=None)]
    world = World(CATALOG, slots={"mlx.mac": 0, "free.account": 0, "paid": 0})

    assert simulate(world, Fleet(CATALOG), arrivals).waiting == 1


def test_late_and_expired_tasks_miss_their_deadline():
    """Both have no answer when it is needed."""
    slow = an_arrival(0, NOW, "local", deadline=NOW + SECOND)
    behind = [an_arrival(number, NOW, "local", deadline=NOW + SECOND) for number in (1, 2)]
    world = World(CATALOG, slots={"mlx.mac": 1, "free.account": 0, "paid": 0}, fault_rate={})

    tally = simulate(world, Fleet(CATALOG), [slow, *behind])

    assert (tally.late, tally.expired, tally.missed) == (1, 2, 3)


def test_progress_is_told():
    """A month takes a while."""
    told: list[float] = []
    arrivals = [an_arrival(number, NOW + 2 * SECOND * number, "critical") for number in range(900)]

    simulate(World(CATALOG), Fleet(CATALOG), arrivals, told.append)

    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)
    assert told


def test_no_arrivals_give_an_empty_tally():
    """An empty week costs nothing."""
    tally = simulate(World(CATALOG), Fleet(CATALOG), [])

    assert (tally.tasks, tally.usd, tally.wait_s(0.5)) == (0, 0, None)


@pytest.mark.parametrize(
    ("allowed", "causes"),
    [
        (limits(requests_per_minute=2), [None, None, "rate_limit"]),
        (limits(requests_per_day=2), [None, None, "quota"]),
        (limits(tokens_per_minute=250), [None, None, "rate_limit"]),
        (limits(concurrency=2), [None, None, "rate_limit"]),
    ],
)
def test_a_meter_turns_away_what_is_too_much(allowed: Any, causes: Sequence[str | None]):
    """A simulated provider that is kinder than a real one proves nothing."""
    meter = Meter(allowed, "provider")
    found: list[str | None] = []
    for _ in range(3):
        refusal = meter.refusal(100, NOW)
        meter.count(NOW)
        found.append(refusal.cause if refusal else None)
        if refusal is None:
            meter.begin(100, NOW)

    assert found == causes


def test_chance_is_even_and_its_spread_is_one_on_average():
    """A draw that leaned to one side would bend every time."""
    draws = [chance(7, "x", number) for number in range(4000)]

    assert sum(draws) / 4000 == pytest.approx(0.5, abs=0.02)
    assert sum(map(spread, draws)) / 4000 == pytest.approx(1, abs=0.03)
    assert min(map(spread, draws)) >= 0.5


def test_outages_are_drawn_in_order_and_as_often_as_asked():
    """An outage inside another one would make it shorter."""
    drawn = list(random_outages(3, "x", NOW, NOW + 1000 * HOUR, per_day=2, mean=HOUR))

    assert 60 < len(drawn) < 95
    assert all(one.end <= two.begin for one, two in pairwise(drawn))
    assert list(random_outages(3, "x", NOW, NOW + HOUR, per_day=0, mean=HOUR)) == []


def test_a_models_speed_follows_its_size():
    """A large local model is read from memory for each token, a small one too, but faster."""
    world = World(CATALOG)
    small = Model(name="s", tier="local", engine="llama", context_tokens=10, memory_gb=0.2)
    large = Model(name="l", tier="local", engine="llama", context_tokens=10, memory_gb=5.5)

    assert world.service_s(small, 100, 100, 1)[1] * 10 < world.service_s(large, 100, 100, 1)[1]
