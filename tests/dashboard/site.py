"""A dashboard in a process of its own."""

import socket
import time
import urllib.request
from contextlib import closing
from typing import Literal

import pytest
from playwright.sync_api import ViewportSize

from tests.fleet.processes import Fleet

WIDE, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)

Scheme = Literal["light", "dark"]

OPEN_S = 60


class Site:
    """A dashboard of a fleet, in a process of its own."""

    def __init__(self, fleet: Fleet, **settings: str) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        self.url = f"http://localhost:{port}"
        fleet.start("dashboard", also={"FLEET_DASHBOARD_PORT": str(port), **settings})
        end = time.monotonic() + OPEN_S
        while not self.answers():
            if time.monotonic() > end:
                pytest.fail(f"no dashboard within {OPEN_S} s:\n{fleet.log.read_text()}")
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/login", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
