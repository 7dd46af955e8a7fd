"""What the pages show, of whatever the ledger holds."""

import json
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from html.parser import HTMLParser
from urllib.parse import urlencode
from uuid import UUID

import pytest
from starlette.testclient import TestClient

from dashboard.memory import Memory
from dashboard.pages.texts import content_text
from dashboard.quota import quotas
from ledger import tasks
from ledger.connect import Connection
from ledger.pool import reading_pool
from tests.dashboard.made import a_done_task, a_failed_task
from tests.ledger.made import a_task

OWN = {"Sec-Fetch-Site": "same-origin"}

MOST_BYTES = 200_000

HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></textarea><img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>'",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202etxt.exe\u2066",
    "javascript:alert(1)",
    "<time datetime='2026-01-01'>",
]


class Tags(HTMLParser):
    """The tags of a page, with their attributes, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_others_wrote_stays_text(pages: TestClient, db: Connection, epoch: int, hostile: str):
    """A model's answer is hostile input: it was written by whoever wrote what the model has read."""
    done = a_done_task(db, epoch, prompt=hostile, answer=hostile, agent=hostile, metadata={"note": hostile})
    failed = a_failed_task(db, epoch, text=hostile, agent=hostile)

    filtered = f"/tasks?{urlencode({'agent': hostile, 'error': hostile})}"
    for path in ("/", "/tasks", filtered, f"/tasks/{done}", f"/tasks/{failed}"):
        page = pages.get(path).text
        known = {"img", "svg", "script", "time"}
        for tag, attributes in Tags(page).seen:
            assert not [name for name in attributes if name.startswith("on")], (path, tag)
            if tag in known:
                assert not attributes.get("onerror"), path
                assert (attributes.get("src") or "/static/").startswith("/static/"), path
                assert tag != "time" or "+00:00" in (attributes["datetime"] or ""), path
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page), path


def test_a_line_of_a_megabyte_is_cut_and_the_rest_is_a_file(pages: TestClient, db: Connection, epoch: int):
    """The last dashboard hung on one."""
    long = "x" * 1_000_000
    task = a_done_task(db, epoch, prompt=f"<b>{long}", answer=f"\x1b{long}</b>", agent=long[:100_000])
    failed = a_failed_task(db, epoch, text=long)

    for path in (f"/tasks/{task}", f"/tasks/{failed}", "/tasks"):
        page = pages.get(path)
        assert (page.status_code, len(page.content) < MOST_BYTES) == (200, True), (path, len(page.content))
    answer = pages.get(f"/tasks/{task}/answer.txt")
    assert answer.text == f"␛{long}</b>"
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert pages.get(f"/tasks/{task}/prompt.txt").text == f"[user]\n<b>{long}"


def test_no_address_of_a_page_carries_a_prompt(pages: TestClient, db: Connection, epoch: int):
    """Addresses are in histories, logs and the headers to other sites."""
    task = a_done_task(db, epoch, prompt="a secret plan", answer="a secret answer")

    for path in ("/", "/tasks", f"/tasks/{task}", "/agents"):
        for _, attributes in Tags(pages.get(path).text).seen:
            for name in ("href", "src", "action", "hx-get"):
                assert "secret" not in (attributes.get(name) or ""), path


def test_the_page_of_a_task_says_what_explain_says(pages: TestClient, db: Connection, epoch: int):
    """Two places that tell the same must not tell it differently."""
    task = a_done_task(db, epoch, prompt="What is a queue?", answer="A line.")
    page = pages.get(f"/tasks/{task}").text

    for text in ("What is a queue?", "A line.", "kimi: no live worker", "by echo@host", "3 in, 5 out"):
        assert text in page, text
    assert pages.get(f"/tasks/{str(task)[:8]}").status_code == 200


@pytest.mark.parametrize("asked", ["nonsense", "00000000", str(UUID(int=7))])
def test_a_task_that_is_not_there_is_said_to_be_not_there(pages: TestClient, asked: str):
    answer = pages.get(f"/tasks/{asked}")

    assert answer.status_code == 404
    assert "No such task" in answer.text


@pytest.mark.parametrize(
    "query",
    ["state=nonsense", "before=1_2", "before=99999999999999999999_x", "until=soon", "within=1y", "x=1"],
)
def test_a_query_that_makes_no_sense_is_left_out(pages: TestClient, query: str):
    """Addresses are kept, shortened and typed."""
    assert pages.get(f"/tasks?{query}").status_code == 200


def test_texts_that_were_removed_are_said_to_be_removed(pages: TestClient, db: Connection, epoch: int):
    task = a_done_task(db, epoch, prompt="forget me", answer="gone")
    db.execute("UPDATE tasks SET request = NULL, text_removed_at = now() WHERE id = %s", (task,))
    db.execute("UPDATE attempts SET answer = NULL WHERE task_id = %s", (task,))

    page = pages.get(f"/tasks/{task}").text

    assert "The texts were removed" in page
    assert "Run again" not in page
    assert pages.get(f"/tasks/{task}/prompt.txt").status_code == 404
    assert pages.post(f"/tasks/{task}/again", headers=OWN).status_code == 409


def test_a_task_cannot_be_cancelled_where_nobody_leads(pages: TestClient, db: Connection, epoch: int):
    """A click that nobody hears must not look as if it had worked."""
    task = a_task()
    tasks.accept(db, [task], epoch=epoch)
    db.execute("UPDATE leadership SET lease_until = now() - interval '1 hour'")

    answer = pages.post(f"/tasks/{task.id}/cancel", headers=OWN)

    assert answer.status_code == 503
    assert "no dispatcher leads" in answer.text


def test_pages_cannot_write(db_url: str):
    """A hole in a page must not become a hole in the ledger."""
    with reading_pool(db_url, name="test", most=1) as pool, pool.connection() as db:
        for statement in ("DELETE FROM tasks", "CREATE TABLE mine ()", "UPDATE leadership SET epoch = 9"):
            with pytest.raises(Exception, match="read-only transaction"):
                db.execute(statement)


def test_a_ledger_that_is_away_is_said_to_be_away(visit: Callable[..., TestClient]):
    """A blank page or a traceback would send people to the wrong place."""
    pages = visit(FLEET_DATABASE_URL="postgresql:///fleet?host=/nonexistent&connect_timeout=1")

    answer = pages.get("/tasks")

    assert answer.status_code == 503
    assert "Postgres does not answer" in answer.text
    assert "fleet up" in answer.text


def test_quotas_are_read_out_of_what_is_said_to_be_left():
    found = quotas(
        {
            "provider openrouter": "18 of 20 requests this minute, 1,000 of 1,000 requests today",
            "budget all": "$4.25 of $5 this day",
            "budget words": "10 tokens of 1,000 tokens this month",
        }
    )

    assert [(each.left, each.allowed) for each in found] == [(18, 20), (1000, 1000), (4.25, 5), (10, 1000)]


def test_what_takes_long_is_made_once_and_anew_behind_the_readers_back(db: Connection):
    """Ten windows with the overview open must not add up a year ten times every ten seconds."""
    made: list[int] = []

    def make(_: Connection) -> int:
        made.append(len(made))
        return made[-1]

    memory = Memory(lambda: nullcontext(db))

    assert [memory.recall("a", 60, make) for _ in range(3)] == [0, 0, 0]
    assert memory.recall("b", 60, make) == 1
    memory.kept["a"] = memory.kept["a"]._replace(at=time.monotonic() - 61)
    assert memory.recall("a", 60, make) == 0
    memory.close()
    assert memory.kept["a"].value == 2
    memory.kept["a"] = memory.kept["a"]._replace(at=time.monotonic() - 301)
    assert memory.recall("a", 60, make) == 3


def test_content_that_is_no_text_is_shown_as_json():
    """Pictures and tool calls are lists of parts."""
    parts = [{"type": "text", "text": "what is this?"}]

    assert json.loads(content_text({"content": parts})) == parts
    assert json.loads(content_text({"content": None, "tool_calls": [{"id": "1"}]})) == [{"id": "1"}]
    assert content_text({"content": None}) == ""
