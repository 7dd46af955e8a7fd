"""Ask OSV, the open database of vulnerabilities, about every package and version that is locked.

One request with names and versions, nothing else. Exit status: 0, there are none, or nobody could be asked,
which is then said; 1, there are some. A build that has no network is not the fault of a package.

    python build/audit.py requirements.lock build/uv.txt

Source: https://google.github.io/osv.dev/post-v1-querybatch/, read 2026-11.
"""

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

SERVICE = "https://api.osv.dev/v1/querybatch"

LIMIT_S = 20.0

MOST_AT_ONCE = 1000
"""Packages that the service takes in one request."""

PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not stop a build, each with the reason: {"GHSA-...": "we do not call ..."}."""

Pin = tuple[str, str]


def pins(paths: Sequence[Path]) -> list[Pin]:
    """List (name, version) of every package in lock files, each once."""
    found = {(name, version) for path in paths for name, version in PINNED.findall(path.read_text())}
    return sorted(found)


def ask(service: str, asked: Sequence[Pin]) -> list[list[str]]:
    """Ask for the vulnerabilities of each package.

    Returns:
        Their ids, in the order of the packages.

    Raises:
        OSError, HTTPException, ValueError: nobody answers, or nobody who knows.
    """
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in asked
    ]
    request = urllib.request.Request(  # noqa: S310 - https, unless somebody names another
        service,
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:  # noqa: S310 - as above
        told: Any = json.load(answer)
    results = told.get("results") if isinstance(told, dict) else None
    if not isinstance(results, list) or len(results) != len(asked):
        message = "an answer that is not one for each package"
        raise ValueError(message)
    return [[str(each["id"]) for each in result.get("vulns", [])] for result in results]


def main() -> int:
    """Ask, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("locks", nargs="+", type=Path)
    parser.add_argument("--service", default=SERVICE)
    arguments = parser.parse_args()
    asked = pins(arguments.locks)
    found: list[tuple[Pin, str]] = []
    try:
        for start in range(0, len(asked), MOST_AT_ONCE):
            some = asked[start : start + MOST_AT_ONCE]
            of_each = zip(some, ask(arguments.service, some), strict=True)
            found += [(pin, each) for pin, ids in of_each for each in ids if each not in ACCEPTED]
    except (OSError, HTTPException, ValueError) as error:
        print(f"NOT AUDITED: {arguments.service} cannot be asked ({type(error).__name__}: {error})")
        return 0
    for (name, version), vulnerability in found:
        print(f"{name} {version}: https://osv.dev/vulnerability/{vulnerability}")
    print(f"{len(asked)} packages, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
