"""How fast the brain decides, what it costs while there is nothing to decide, and what it keeps in mind.

10,000 tasks of 50 agents wait for 16 models; every decision is a plan over all candidates of its task, with
limits, patience and turns, and each placement fills the picture that the next one is made on. Nothing is
written: benchmarks.pipeline measures the whole path.
"""

import argparse
import os
import statistics
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psutil

from benchmarks.figures import Figure, report
from benchmarks.pipeline import processes, services
from config.catalog import Catalog
from config.models import Limits, Model, Price
from config.profiles import Profile, Routing
from ledger.connect import connect
from routing.plan import Plan, Run
from routing.scheduler import Scheduler
from routing.task import Needs, Task
from routing.vitals import Ended, Vitals

HELD = 10_000
MANY_HELD = 100_000
MODELS = 16
AGENTS = 50
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

HELD_NOW = "SELECT count(*) FROM tasks WHERE state = 'held' AND finished_at IS NULL"

HOLD = """
    INSERT INTO tasks (id, state, profile, agent, priority, needs, request, envelope)
    SELECT uuidv7(), 'held', 'social', 'agent ' || number %% 50, number %% 3,
           '{"prompt_tokens": 700, "script": "ASCII", "wide_tokens": 0, "max_tokens": 500, "requires": [],
             "patience_s": null, "max_tier": null, "max_cost_usd": null}',
           '{}',
           '{"headers": {}, "embed": {}}'
      FROM generate_series(1, %(count)s) AS numbers (number)
"""


def a_catalog() -> Catalog:
    """Make 16 models of all tiers, half of them limited, and a profile for each with all others behind it."""
    dated = {"checked_on": date(2026, 1, 1), "source": "made up"}
    price = Price.model_validate(
        {
            "input_usd_per_mtok": Decimal(1),
            "output_usd_per_mtok": Decimal(2),
            "since": date(2026, 1, 1),
            **dated,
        }
    )
    models: dict[str, Model] = {}
    for number in range(MODELS):
        tier = ("local", "free", "free", "paid")[number % 4]
        limits = {"requests_per_minute": 400, "requests_per_day": 5000, **dated} if number % 2 else {}
        models[f"m{number}"] = Model.model_validate(
            {
                "name": f"m{number}",
                "tier": tier,
                "engine": "echo",
                "context_tokens": 32_768,
                "limits": Limits.model_validate(limits),
                "prices": (price,) if tier == "paid" else (),
            }
        )
    names = list(models)
    profiles = {
        f"p{number}": Profile(
            name=f"p{number}",
            model=name,
            fallbacks=tuple(names[number + 1 :] + names[:number]),
            temperature=0.5,
            max_tokens=500,
            prompt="x",
            patience_s=600,
        )
        for number, name in enumerate(names)
    }
    return Catalog(
        providers={}, models=models, profiles=profiles, focuses={}, routing=Routing(primary="m0"), schedule={}
    )


def waiting_tasks() -> list[Task]:
    """Make the tasks: of many agents, profiles, sizes and ages."""
    return [
        Task(
            id=UUID(int=number),
            profile=f"p{number % MODELS}",
            focus=None,
            model=None,
            agent=f"agent {number % AGENTS}",
            priority=number % 3,
            not_before=None,
            deadline=NOW + timedelta(hours=1) if number % 5 == 0 else None,
            needs=Needs(prompt_tokens=50 + number % 2000, max_tokens=500),
            accepted_at=NOW - timedelta(seconds=number % 900),
            patient_until=NOW + timedelta(seconds=600 - number % 900),
        )
        for number in range(HELD)
    ]


def decisions_per_s(catalog: Catalog) -> tuple[float, int, float]:
    """Let the brain decide on the whole backlog, tick by tick, as slots come free.

    Returns:
        Decisions a second (plans made, whether they placed a task or not), the tasks placed, and the
        seconds of a tick in which nothing can be placed.
    """
    vitals = Vitals(catalog, slots={model.queue: 40 for model in catalog.models.values()})
    for model in catalog.models.values():
        vitals.learn(model, None, an_end(NOW))
    scheduler = CountingScheduler(catalog, vitals)
    for task in waiting_tasks():
        scheduler.add(task, 600, NOW)
    placed = 0
    began = time.perf_counter()
    for tick in range(10):
        now = NOW + timedelta(seconds=tick)
        for _, decision in scheduler.decisions(now):
            placed += isinstance(decision, Run)
        for key in list(vitals.under_way):
            vitals.ended(key, an_end(now))
    rate = scheduler.made / (time.perf_counter() - began)
    vitals.slots = {}
    began = time.perf_counter()
    list(scheduler.decisions(NOW))
    return rate, placed, time.perf_counter() - began


class CountingScheduler(Scheduler):
    """Counts the plans that it makes."""

    made = 0

    def decide(self, task: Task, now: datetime) -> Plan:
        """Make a plan."""
        self.made += 1
        return super().decide(task, now)


def an_end(at: datetime) -> Ended:
    return Ended("succeeded", at, at + timedelta(seconds=1), tokens=600, cost_usd=Decimal(0))


def idle_cpu_share(seconds: float) -> float:
    """Run a dispatcher with nothing to do, and measure its share of one core in per cent."""
    os.environ["FLEET_LOG_LEVEL"] = "warning"
    with services(), processes(("workers.cli", "dispatcher")) as (dispatcher,):
        time.sleep(4)
        process = psutil.Process(dispatcher.pid)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / seconds


def held_memory_mb() -> float:
    """Let a dispatcher begin with 100,000 tasks that wait for a worker, and measure its resident memory."""
    with services() as using, connect(using.database_url, name="fill") as db:
        from workers.tasks import complete  # noqa: PLC0415 - reads the settings that `services` made

        db.execute(HOLD, {"count": MANY_HELD})
        with processes(("workers.cli", "dispatcher")) as (dispatcher,):
            complete.delay("one more", profile="social")
            deadline = time.monotonic() + 60
            while db.execute(HELD_NOW).fetchone() != (MANY_HELD + 1,):
                if time.monotonic() > deadline:
                    message = "the dispatcher did not read what waits within 60 s"
                    raise TimeoutError(message)
                time.sleep(0.5)
            return psutil.Process(dispatcher.pid).memory_info().rss / 1e6


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 50 s")
    quick = parser.parse_args().quick
    catalog = a_catalog()
    runs = [decisions_per_s(catalog) for _ in range(3 if quick else 9)]
    rate, placed, idle_tick_s = (statistics.median(column) for column in zip(*runs, strict=True))
    idle = idle_cpu_share(10 if quick else 60)
    held_mb = held_memory_mb()
    report(
        f"{HELD:,} held tasks of {AGENTS} agents, {MODELS} models; Python {sys.version.split()[0]}; medians",
        [
            ("decisions", f"{rate:,.0f} /s"),
            ("tasks placed in 10 ticks", f"{placed:,.0f}"),
            ("a tick in which nothing can be placed", f"{idle_tick_s * 1000:.1f} ms"),
            ("a dispatcher with nothing to do", f"{idle:.2f} % of a core"),
            (f"a dispatcher with {MANY_HELD:,} held tasks", f"{held_mb:.0f} MB"),
        ],
        [
            Figure("brain.decisions_per_s", rate, 5000, "/s"),
            Figure("brain.idle_cpu", idle, 1, "%", is_ceiling=True),
            Figure("brain.memory_with_100000_held", held_mb, 300, "MB", is_ceiling=True),
        ],
    )


if __name__ == "__main__":
    main()
