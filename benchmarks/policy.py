"""What the fleet's policy saves on a week of ordinary agent work, and what it loses: nothing, if it is good.

The work is that of a deployment whose bill was audited in February 2026: about $133 a month, because every
call went to one paid model. Three jobs run every 15 minutes, one of them for about 170 s; a health check
every hour, a review every six hours, and posts in between. The audit tells runs, seconds and dollars. What we
assume: a run is one task; tokens that come to that bill at that time's prices; how long each job can wait;
and prompts of English, whose tokens are estimated 2.9 times too high, because an estimate is never too low.

The week is simulated on the shipped catalog with today's prices: OpenRouter's limits as an account has them
(50 requests a day, or 1,000), one model at 8 a minute as has been seen, outages of both accounts and of
single free models, and a Mac that is away for an hour twice a day. Nothing calls anybody.

The jobs' profiles follow the audit's heuristics: simple work on the Mac first, special work on free models
first, a paid model for the review, and for the others when nothing else has time left.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from benchmarks.figures import Figure, report
from config.catalog import Catalog, load_catalog
from config.models import Limits
from config.profiles import Profile
from config.settings import SHIPPED_CONFIG
from routing.price import cost_usd
from routing.simulation.chance import chance
from routing.simulation.policies import (
    Arrival,
    Fleet,
    all_paid,
    immediate_fallback,
    retry_with_backoff,
)
from routing.simulation.run import simulate
from routing.simulation.tally import Tally
from routing.simulation.world import Outage, World, random_outages
from routing.task import Needs, Task

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
WEEK = timedelta(days=7)

AUDITED_ON = date(2026, 2, 12)
"""The day of the prices that the bill of $133 a month was paid at."""

ESTIMATE = 2.9
"""Tokens estimated for each one that an English prompt has: the estimate is never too low."""

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Job:
    """Something that an agent does again and again."""

    name: str
    profile: str
    every: timedelta
    prompt_tokens: int
    completion_tokens: int
    max_tokens: int
    deadline: timedelta
    is_at_random: bool = False
    """False: on the minute, as cron starts it."""


JOBS = (
    Job("exploration", "exploration", 15 * MINUTE, 6_000, 9_500, 11_400, timedelta(hours=3)),
    Job("work_cycle", "simple", 15 * MINUTE, 7_000, 1_000, 1_500, timedelta(hours=1)),
    Job("memory_sync", "simple", 15 * MINUTE, 6_000, 700, 1_500, timedelta(hours=1)),
    Job("health_check", "heartbeat", 60 * MINUTE, 500, 40, 64, timedelta(minutes=30)),
    Job("review", "analysis", 360 * MINUTE, 60_000, 5_000, 7_000, timedelta(hours=1)),
    Job("post", "social", 120 * MINUTE, 800, 400, 1024, timedelta(hours=4), is_at_random=True),
)

NIGHTS = tuple(
    Outage("mlx.qwen3-mlx", MONDAY + timedelta(hours=24 * day - 1), MONDAY + timedelta(hours=24 * day + 7))
    for day in range(8)
)

LONGER = Job("exploration", "exploration", 15 * MINUTE, 14_000, 8_000, 11_400, timedelta(hours=3))
"""Of the same price, but its estimate does not fit the Mac's context."""


@dataclass(frozen=True)
class Variant:
    """A week that differs."""

    name: str
    jobs: Sequence[Job] = JOBS
    more_outages: Sequence[Outage] = ()


AS_IT_IS = Variant("")

VARIANTS = (
    Variant("the Mac sleeps from 23 to 7", more_outages=NIGHTS),
    # What they may cost a day is bounded by the shipped budget.
    Variant("explorations that do not fit the Mac", jobs=(LONGER, *JOBS[1:])),
)

PROFILES = (
    Profile(
        name="exploration",
        model="qwen3-next-free",
        fallbacks=("gpt-oss-free", "nemotron-free", "qwen3-mlx", "kimi"),
        temperature=0.7,
        max_tokens=11_400,
        prompt="Explore.",
        patience_s=9000,
    ),
    Profile(
        name="simple",
        model="qwen3-mlx",
        fallbacks=("phi4-mini-local", "qwen-cpu-fallback", "gpt-oss-small-free", "qwen3-next-free", "kimi"),
        temperature=0.3,
        max_tokens=1500,
        prompt="Tidy up.",
        patience_s=2700,
    ),
)


def a_catalog(requests_per_day: int) -> Catalog:
    """Load the shipped catalog, with the jobs' own profiles and what the free account allows a day."""
    shipped = load_catalog(SHIPPED_CONFIG)
    account = shipped.providers["openrouter"]
    limits = account.limits.model_copy(update={"requests_per_day": requests_per_day})
    return shipped.model_copy(
        update={
            "profiles": {**shipped.profiles, **{profile.name: profile for profile in PROFILES}},
            "providers": {**shipped.providers, "openrouter": account.model_copy(update={"limits": limits})},
        }
    )


def arrivals(seed: int, jobs: Sequence[Job] = JOBS) -> list[Arrival]:
    """Make the tasks of a week, each job's in order."""
    return [arrival for job in jobs for arrival in arrivals_of(job, seed)]


def arrivals_of(job: Job, seed: int) -> Iterator[Arrival]:
    for number in range(WEEK // job.every):
        shift = job.every * chance(seed, job.name, number, "shift") if job.is_at_random else timedelta(0)
        start_s = 2 * chance(seed, job.name, number, "start")
        at = MONDAY + number * job.every + shift + timedelta(seconds=start_s)
        size = 0.8 + 0.4 * chance(seed, job.name, number, "size")
        prompt, completion = round(job.prompt_tokens * size), round(job.completion_tokens * size)
        task = Task(
            id=UUID(int=int(2**120 * chance(seed, job.name, number, "id")) + number),
            profile=job.profile,
            focus=None,
            model=None,
            agent=job.name,
            priority=3,
            not_before=None,
            deadline=at + job.deadline,
            needs=Needs(prompt_tokens=round(prompt * ESTIMATE), max_tokens=job.max_tokens),
            accepted_at=at,
            patient_until=at,
        )
        yield Arrival(task, prompt, completion)


def a_world(catalog: Catalog, seed: int, more_outages: Sequence[Outage] = ()) -> World:
    """Make a week's misfortunes."""
    eight = Limits(requests_per_minute=8, source="seen", checked_on=MONDAY.date())
    kinds = (
        ("openrouter", 0.5, 40 * MINUTE),
        ("moonshot", 0.3, 15 * MINUTE),
        ("qwen3-next-free", 1.0, 60 * MINUTE),
        ("gpt-oss-free", 1.0, 60 * MINUTE),
        ("mlx.qwen3-mlx", 2.0, 60 * MINUTE),
    )
    outages = [*more_outages]
    for subject, per_day, mean in kinds:
        found = random_outages(seed, subject, MONDAY, MONDAY + WEEK, per_day=per_day, mean=mean)
        # A free model that is overrun answers 429, whatever the account has left.
        outages += [replace(each, cause="rate_limit") if "-free" in subject else each for each in found]
    return World(catalog, seed, outages=outages, limits={"qwen3-coder-free": eight})


def month_on(model: str, catalog: Catalog, day: date) -> Decimal:
    """Price thirty days of all jobs on one model."""
    return sum(
        (
            (timedelta(days=30) // job.every)
            * (
                cost_usd(
                    catalog.model(model),
                    day,
                    prompt_tokens=job.prompt_tokens,
                    completion_tokens=job.completion_tokens,
                )
                or Decimal(0)
            )
            for job in JOBS
        ),
        Decimal(0),
    )


def compare(seed: int, requests_per_day: int, variant: Variant = AS_IT_IS) -> list[Tally]:
    """Let policies meet the same week: the fleet, all on kimi and, unless it is a variant, gateways."""
    catalog = a_catalog(requests_per_day)
    world = a_world(catalog, seed, variant.more_outages)
    tasks = arrivals(seed, variant.jobs)
    policies = [Fleet(catalog, "the fleet"), all_paid(catalog, "kimi")]
    if variant is AS_IT_IS:
        policies += [immediate_fallback(catalog), retry_with_backoff(catalog)]
    return [simulate(world, policy, tasks) for policy in policies]


def saved_share(tallies: Iterable[Tally], beside: Iterable[Tally]) -> float:
    """Tell which share of another policy's dollars one did not spend, in all weeks together."""
    return float(1 - sum(tally.usd for tally in tallies) / sum(tally.usd for tally in beside))


def lost(tally: Tally) -> int:
    """Count the tasks without an answer, whatever the reason."""
    return tally.failed + tally.expired + tally.waiting


def said(tallies: Sequence[Tally], paid: Sequence[Tally]) -> str:
    """Put the weeks of one policy into words; counts are the sums of all weeks."""
    usd = sum(tally.usd for tally in tallies) / len(tallies)
    worst = min(saved_share([tally], [beside]) for tally, beside in zip(tallies, paid, strict=True))
    waits = [statistics.median(tally.wait_s(share) or 0 for tally in tallies) for share in (0.5, 0.95, 0.99)]
    return "\n".join(
        (
            f"${usd:.2f} a week, {saved_share(tallies, paid):.1%} saved, {worst:.1%} in the worst week",
            f"lost {sum(map(lost, tallies))}, deadlines missed {sum(tally.missed for tally in tallies)}",
            f"useless requests {sum(tally.useless for tally in tallies):,}",
            f"waits p50 {waits[0]:.1f} s, p95 {waits[1]:.0f} s, p99 {waits[2]:.0f} s",
        )
    )


def main() -> None:
    """Simulate and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 weeks of each kind instead of 12, under 50 s")
    seeds = range(2 if parser.parse_args().quick else 12)
    rows: list[tuple[str, str]] = []
    ours: list[Tally] = []
    saved: list[float] = []
    simulated = 0
    began = time.perf_counter()
    for quota in (50, 1000):
        for variant in (AS_IT_IS, *VARIANTS):
            columns = list(zip(*(compare(seed, quota, variant) for seed in seeds), strict=True))
            fleet, paid = columns[:2]
            name = f"{quota} free requests a day" + (f", {variant.name}" if variant.name else "")
            shown = columns if variant is AS_IT_IS else columns[:1]
            rows += [(f"{tallies[0].policy}: {name}", said(tallies, paid)) for tallies in shown]
            simulated += len(columns) * len(seeds)
            if variant is AS_IT_IS:
                ours += fleet
                saved.append(saved_share(fleet, paid))
    took_s = time.perf_counter() - began
    catalog = a_catalog(50)
    bills = [month_on("kimi", catalog, AUDITED_ON), month_on("kimi-k2.6", catalog, MONDAY.date())]
    report(
        f"{len(seeds)} simulated weeks of {ours[0].tasks:,} tasks each; Python {sys.version.split()[0]}",
        [
            ("a month on kimi, at the audit's prices", f"${bills[0]:.2f}"),
            ("a month on kimi's successor, today", f"${bills[1]:.2f}"),
            *rows,
            ("to simulate a week under one policy", f"{took_s / simulated:.2f} s"),
        ],
        [
            Figure("policy.saved_share", min(saved), 0.94, "share"),
            Figure("policy.tasks_lost", sum(map(lost, ours)), 0, "tasks", is_ceiling=True),
            Figure("policy.deadlines_missed", sum(t.missed for t in ours), 0, "tasks", is_ceiling=True),
            Figure("policy.useless_requests", sum(t.useless for t in ours), 0, "requests", is_ceiling=True),
        ],
    )


if __name__ == "__main__":
    main()
