"""What Flower shows of a fleet, asked through its own HTTP API."""

import json
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

from tests.fleet.processes import WAIT_S, Fleet

ECHO_CATALOG = Path(__file__).parents[1] / "catalogs/echo"
PASSWORD = "only for this test"
SECRET = "a prompt that Flower must not show"


class Flower:
    """A fleet with Flower beside it."""

    def __init__(self, fleet: Fleet, password: str = PASSWORD) -> None:
        self.fleet = fleet
        self.password = password

    def ask(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.fleet.environment['FLEET_FLOWER_PORT']}/api/{path}"
        key = b64encode(f"fleet:{self.password}".encode()).decode()
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def wait_for(self, path: str, is_there: Callable[[Any], bool]) -> Any:
        """Ask until the answer is as it should be: Flower learns from events, and starts slowly."""
        end, found = time.monotonic() + WAIT_S, None
        while time.monotonic() < end:
            try:
                found = self.ask(path)
                if is_there(found):
                    return found
            except (urllib.error.URLError, OSError) as error:
                found = error
            time.sleep(0.2)
        pytest.fail(f"{path} gives {found!r}\n{self.fleet.log.read_text()}")


@pytest.fixture(scope="module")
def flower(short_folder: Callable[[], Path]) -> Iterator[Flower]:
    home = short_folder()
    (home / "config").symlink_to(ECHO_CATALOG)
    with closing(create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    fleet = Fleet(home)
    fleet.environment |= {"FLEET_FLOWER_PORT": str(port), "FLEET_FLOWER_PASSWORD": PASSWORD}
    fleet.start("flower")
    fleet.start("dispatcher")
    fleet.worker()
    flower = Flower(fleet)
    flower.wait_for("workers?refresh=true", lambda workers: len(workers) == 1)
    yield flower
    fleet.end()


def test_a_worker_has_its_lane_and_its_queues(flower: Flower):
    """Whoever opens Flower sees which machine serves which model."""
    ((name, worker),) = flower.ask("workers?refresh=true").items()
    known = flower.fleet.ask("SELECT name FROM workers")
    queues = flower.fleet.ask("SELECT array_agg(q ORDER BY q) FROM workers, jsonb_object_keys(slots) AS q")

    assert name == known
    assert name.startswith("echo-")
    assert sorted(queue["name"] for queue in worker["active_queues"]) == queues
    assert "echo.echo" in queues
    assert "complete" in worker["registered"]
    assert worker["stats"]["pool"]["implementation"].endswith("thread:TaskPool")


def test_a_task_has_its_name_profile_and_model_and_no_prompt(flower: Flower):
    """The id is the one that the caller and the ledger have."""
    result = flower.fleet.send(SECRET, profile="social")
    answer: Any = result.get(timeout=WAIT_S)

    task = flower.wait_for(f"task/info/{result.id}", lambda task: task["state"] == "SUCCESS")

    assert task["name"] == "complete"
    assert task["args"] == "()"
    shown = {"profile": "social", "model": answer["fleet"]["model"]}
    assert task["kwargs"] == repr(shown)
    assert SECRET not in json.dumps(task)
    assert SECRET not in json.dumps(flower.ask("tasks"))
    assert flower.ask("task/types") == {"task-types": ["complete"]}


def test_a_queue_has_its_name_and_length(flower: Flower):
    """Its page of the broker lists the lines in which attempts wait."""
    found = {each["name"]: each["messages"] for each in flower.ask("queues/length")["active_queues"]}

    queues = flower.fleet.ask("SELECT array_agg(q) FROM workers, jsonb_object_keys(slots) AS q")

    assert found == dict.fromkeys(queues, 0)
