"""What `fleet spend` takes over a year of ten million attempts, and that it reads none of them."""

import argparse
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

from benchmarks.figures import Figure, report
from benchmarks.pipeline import services
from benchmarks.year import grow
from config.catalog import load_catalog
from config.settings import SHIPPED_CONFIG
from ledger import rollup
from ledger.connect import connect
from ledger.spend import By
from workers.spend import report as spend

A_YEAR = timedelta(days=365)

GROUPS: tuple[tuple[By, ...], ...] = (
    ("model",),
    ("day",),
    ("profile",),
    ("tier",),
    ("agent",),
    ("day", "tier"),
)

ROUNDS = 15


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000 attempts, under a minute")
    count = 100_000 if parser.parse_args().quick else 10_000_000
    catalog = load_catalog(SHIPPED_CONFIG)
    rows: list[tuple[str, str]] = []
    with services() as using:
        began = time.perf_counter()
        grow(using.database_url, count)
        rows.append((f"{count:,} attempts in 12 months inserted in", f"{time.perf_counter() - began:.0f} s"))
        with connect(using.database_url, name="spend") as db:
            began = time.perf_counter()
            differing = rollup.differences(db)
            compared_s = time.perf_counter() - began
            rows.append((f"all compared with their sums, {len(differing)} differ", f"{compared_s:.1f} s"))
            slowest_s = 0.0
            for by in GROUPS:
                took: list[float] = []
                groups = 0
                for _ in range(ROUNDS):
                    began = time.perf_counter()
                    groups = len(spend(db, catalog, datetime.now(UTC) - A_YEAR, by=by).rows)
                    took.append(time.perf_counter() - began)
                p95 = statistics.quantiles(took, n=20)[-1]
                slowest_s = max(slowest_s, p95)
                rows.append((f"a year by {','.join(by)}: {groups} rows, p95", f"{p95 * 1000:.0f} ms"))
        took = []
        for _ in range(5):
            began = time.perf_counter()
            command = [sys.executable, "-m", "workers.cli", "spend", "--since", "365d", "--json"]
            subprocess.run(command, check=True, capture_output=True)
            took.append(time.perf_counter() - began)
        rows.append(
            ("`fleet spend --since 365d`, with the start of Python", f"{statistics.median(took):.2f} s")
        )
    report(
        f"a year of {count:,} attempts added up; {ROUNDS} rounds",
        rows,
        [Figure("spend.year_ms", slowest_s * 1000, 300, "ms", is_ceiling=True)],
    )


if __name__ == "__main__":
    main()
