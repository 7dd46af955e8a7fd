"""How long the dashboard's pages take on a ledger with a year behind it, and how heavy they are.

The pages are asked over HTTP, one after the other, from the process that serves them to people. Two databases
take turns, one with a hundredth of the attempts: what grows with the past shows in the ratio.
"""

import argparse
import os
import statistics
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from typing import LiteralString, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks.figures import Figure, report
from benchmarks.pipeline import processes, services
from benchmarks.year import grow
from config.settings import SHIPPED_CONFIG
from ledger.migrate import migrate
from tests.dashboard.browser import chromium

LIMIT_MS = 100.0

LIMIT_BYTES = 200_000

WARM_UP = 3

ROUNDS = 40
"""How often each page is asked for."""

OPENED = 5
"""How often a browser opens the overview."""

LAST_TASK = "SELECT id FROM tasks ORDER BY accepted_at DESC LIMIT 1"

A_FAILED_TASK = "SELECT id FROM tasks WHERE state = 'failed' ORDER BY accepted_at DESC LIMIT 1"

HALF_A_YEAR_AGO = """
    SELECT (extract(epoch FROM accepted_at) * 1000000)::bigint || '_' || id
      FROM tasks
     WHERE accepted_at < now() - interval '180 days'
     ORDER BY accepted_at DESC
     LIMIT 1
"""

NAMED: Mapping[str, LiteralString] = {
    "last": LAST_TASK,
    "failed": A_FAILED_TASK,
    "old": HALF_A_YEAR_AGO,
}
"""What the addresses of pages name."""

PAGES: Mapping[str, str] = {
    "overview, 24 hours": "/",
    "overview, 30 days": "/?over=30d",
    "overview, a year": "/?over=1y",
    "tasks": "/tasks",
    "tasks, half a year back": "/tasks?before={old}",
    "tasks, failed": "/tasks?state=failed",
    "tasks, one agent on paid models": "/tasks?agent=agent-3&tier=paid",
    "tasks, a rare model": "/tasks?model=nobody",
    "tasks, text of an error": "/tasks?error=it+says+nothing",
    "tasks, held": "/tasks?state=held",
    "a task": "/tasks/{last}",
    "a task that failed": "/tasks/{failed}",
    "models": "/models",
    "workers": "/workers",
    "schedules": "/schedules",
    "agents, 7 days": "/agents",
    "agents, a year": "/agents?days=365",
    "agents, by model": "/agents?by=model&days=30",
}


class Asked(NamedTuple):
    """What a page took."""

    p50_ms: float
    p95_ms: float
    size: int
    """Over the wire, compressed."""


def ask(base: str, path: str, rounds: int) -> Asked:
    """Ask for a page again and again."""
    took: list[float] = []
    size = 0
    for number in range(WARM_UP + rounds):
        request = urllib.request.Request(base + path, headers={"Accept-Encoding": "gzip"})
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:
            size = len(answer.read())
        if number >= WARM_UP:
            took.append((time.perf_counter() - began) * 1000)
    return Asked(statistics.median(took), statistics.quantiles(took, n=20)[-1], size)


def opened_in_a_browser_s(base: str) -> float:
    """Time a browser that has nothing of the dashboard yet, until the overview is there with all it loads."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(base, wait_until="load")
        ended_ms: float = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    return ended_ms / 1000


def paths(database_url: str) -> dict[str, str]:
    """Fill in the ids of tasks."""
    with psycopg.connect(database_url) as db:
        found = {name: str(row[0]) for name, query in NAMED.items() if (row := db.execute(query).fetchone())}
    return {name: path.format(**found) for name, path in PAGES.items()}


def beside(database_url: str, name: str) -> str:
    """Make another database on the same server."""
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    url = database_url.replace("///fleet?", f"///{name}?")
    migrate(url)
    return url


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="100,000 attempts, under a minute")
    parser.add_argument("--on", metavar="URL", help="a ledger that benchmarks.year has filled already")
    asked = parser.parse_args()
    count = 100_000 if asked.quick else 10_000_000
    with services(lambda _: SHIPPED_CONFIG) as using, ExitStack() as stack:
        small_url = beside(using.database_url, "small")
        grow(small_url, count // 100)
        large_url = asked.on or using.database_url
        if not asked.on:
            migrate(large_url)
            grow(large_url, count)
        bases: dict[str, str] = {}
        for port, url in ((5561, small_url), (5562, large_url)):
            os.environ.update(FLEET_DATABASE_URL=url, FLEET_DASHBOARD_PORT=str(port))
            stack.enter_context(processes(("workers.cli", "dashboard")))
            bases[url] = f"http://127.0.0.1:{port}"
            wait_for(bases[url])
        small, large = (
            {name: ask(bases[url], path, ROUNDS) for name, path in paths(url).items()}
            for url in (small_url, large_url)
        )
        opened_s = statistics.median(opened_in_a_browser_s(bases[large_url]) for _ in range(OPENED))
    good = [name for name, each in large.items() if each.p95_ms < LIMIT_MS and each.size < LIMIT_BYTES]
    ratio = statistics.median(large[name].p50_ms / small[name].p50_ms for name in PAGES)
    report(
        f"the pages of the dashboard on {count:,} attempts in 12 months; {ROUNDS} requests each",
        [
            *((name, told(each, small[name], count // 100)) for name, each in large.items()),
            ("overview, in a browser that opens it for the first time", f"{opened_s * 1000:.0f} ms"),
        ],
        [
            Figure("dashboard.overview_in_browser_s", opened_s, 1, "s", is_ceiling=True),
            Figure("dashboard.pages_under_100ms_share", len(good) / len(large), 1, "of all pages"),
            Figure("dashboard.history_ratio", ratio, 2, "x", is_ceiling=True),
        ],
    )


def told(large: Asked, small: Asked, count: int) -> str:
    """Say what a page took, and how that compares with a small ledger."""
    times = f"p50 {large.p50_ms:.0f} ms, p95 {large.p95_ms:.0f} ms, {large.size / 1000:.1f} kB"
    return f"{times}, {large.p50_ms / small.p50_ms:.1f} x of {count:,}"


def wait_for(base: str) -> None:
    """Wait until a dashboard answers."""
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{base}/login", timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
