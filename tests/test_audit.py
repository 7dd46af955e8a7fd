"""`make audit`, against a service of the test's own: this machine may have no other."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

LOCKS = (ROOT / "requirements.lock", ROOT / "build/uv.txt")


class Service(ThreadingHTTPServer):
    """Answers as OSV does, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.known: Mapping[tuple[str, str], str] = {}
        self.queries: list[dict[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/querybatch"


class Handler(BaseHTTPRequestHandler):
    """A request."""

    server: Service  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        """Tell what is known of each package."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self.server.queries += asked
        results = [
            {"vulns": [{"id": known}]}
            if (known := self.server.known.get((each["package"]["name"], each["version"])))
            else {}
            for each in asked
        ]
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps({"results": results}).encode())

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def audit(service: str, *locks: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build/audit.py"), "--service", service, *map(str, locks or LOCKS)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_package_of_the_lock_is_asked_for_with_its_version(service: Service):
    """One that is left out would never be found."""
    ran = audit(service.url)

    pinned = [line for path in LOCKS for line in path.read_text().splitlines() if "==" in line.split(";")[0]]
    assert ran.returncode == 0
    assert f"{len(service.queries)} packages, 0 known vulnerabilities" in ran.stdout
    names = {(each["package"]["name"], each["version"]) for each in service.queries}
    assert len(names) == len({line.split(" ")[0].strip("\\").split(";")[0] for line in pinned}) > 100


def test_a_finding_fails_the_build_and_names_the_package(service: Service, tmp_path: Path):
    """Whoever sees it has to know what to raise, and where to read why."""
    lock = tmp_path / "lock"
    lock.write_text("good==1.0 \\\n    --hash=sha256:00\nbad[extra]==2.0 ; python_version < '4' \\\n")
    service.known = {("bad", "2.0"): "PYSEC-1", ("good", "2.0"): "PYSEC-2"}

    ran = audit(service.url, lock)

    assert ran.returncode == 1
    assert "bad 2.0: https://osv.dev/vulnerability/PYSEC-1" in ran.stdout
    assert "2 packages, 1 known vulnerabilities" in ran.stdout


@pytest.mark.parametrize("status", [None, 503])
def test_a_service_that_cannot_be_asked_is_said_and_fails_nothing(service: Service, status: int | None):
    """A green build that looked at nothing must not look like one that looked."""
    service.status = status or 200
    url = service.url if status else "http://127.0.0.1:9/v1/querybatch"

    ran = audit(url)

    assert ran.returncode == 0
    assert "NOT AUDITED" in ran.stdout
    assert "known vulnerabilities" not in ran.stdout


def test_a_build_asks():
    """A check that nobody runs finds nothing."""
    assert "make audit" in (ROOT / ".ci/run").read_text().splitlines()
