"""The pages in a real Chromium: they work, nobody is locked out of them, and nothing hostile runs."""

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from dashboard.door import hashed
from tests.dashboard.browser import chromium
from tests.dashboard.site import PHONE, WIDE, Scheme, Site
from tests.fleet.processes import Fleet

CATALOG = Path(__file__).parents[1] / "catalogs/echo"

PAGES = ("/", "/tasks", "/models", "/workers", "/schedules", "/agents")

PASSWORD = "correct horse battery staple"

ZONE = "Asia/Kathmandu"
"""A quarter of an hour off: no page shows its times by accident."""

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202eevil\x1b[31m"
)

MINUTE_AFTER = """
    SELECT to_char(max(accepted_at) AT TIME ZONE %s + interval '1 min', 'YYYY-MM-DD"T"HH24:MI:00') FROM tasks
"""


@pytest.fixture(scope="module")
def fleet(short_folder: Callable[[], Path]) -> Iterator[Fleet]:
    """Run a dispatcher and a worker, with some tasks done and one that waits."""
    home = short_folder()
    shutil.copytree(CATALOG, home / "config")
    running = Fleet(home)
    running.start("dispatcher")
    running.worker()
    for profile in ("social", "code", "impossible"):
        running.wait_for_state(
            running.send(HOSTILE, profile=profile, agent=f"newsroom {HOSTILE}"),
            "failed" if profile == "impossible" else "succeeded",
        )
    running.wait_for_state(running.send("nobody is there", profile="nowhere"), "held")
    yield running
    running.end()


@pytest.fixture(scope="module")
def site(fleet: Fleet) -> Site:
    return Site(fleet)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@contextmanager
def context(
    browser: Browser, *, viewport: ViewportSize = WIDE, color_scheme: Scheme = "light"
) -> Generator[BrowserContext]:
    opened = browser.new_context(
        viewport=viewport, color_scheme=color_scheme, timezone_id=ZONE, locale="en-GB"
    )
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page; the test fails if anything appears in the console."""
    with context(browser) as opened:
        yield watched(opened.new_page(), complaints := [])
    assert complaints == []


def watched(page: Page, complaints: list[str]) -> Page:
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return page


def task_with(fleet: Fleet, state: str) -> str:
    return str(fleet.ask("SELECT id FROM tasks WHERE state = %s ORDER BY accepted_at DESC LIMIT 1", state))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_is_whole_and_shuts_nobody_out(
    browser: Browser, site: Site, fleet: Fleet, scheme: Scheme, size: ViewportSize
):
    """Seen by axe-core, with both colours and on a phone; nothing is wider than the screen."""
    tasks = [f"/tasks/{task_with(fleet, state)}" for state in ("succeeded", "failed", "held")]
    complaints: list[str] = []
    with context(browser, viewport=size, color_scheme=scheme) as opened:
        page = watched(opened.new_page(), complaints)
        for path in (*PAGES, *tasks, "/tasks?state=failed"):
            page.goto(site.url + path)
            expect(page.locator("h1").first).to_be_visible()
            found = Axe().run(page).response["violations"]
            serious = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
            assert serious == [], (path, [node["html"] for each in found for node in each["nodes"]])
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            assert page.title() != "owned", path
            assert (
                page.evaluate("getComputedStyle(document.body).backgroundColor")
                == {
                    "light": "rgb(245, 246, 248)",
                    "dark": "rgb(15, 18, 23)",
                }[scheme]
            )
    assert complaints == []


def test_a_new_task_appears_without_a_reload(page: Page, site: Site, fleet: Fleet):
    """Whoever watches a fleet work should not have to press a key for it."""
    page.goto(f"{site.url}/tasks?agent=latecomer")
    expect(page.get_by_text("No task fits")).to_be_visible()
    page.evaluate("window.same = true")

    fleet.wait_for_state(fleet.send("hello", profile="social", agent="latecomer"), "succeeded")

    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody .state")).to_have_text("succeeded")
    assert page.evaluate("window.same") is True


def test_a_filter_narrows_the_list_and_its_address_can_be_kept(page: Page, site: Site):
    """A colleague is sent the address, not a list of clicks."""
    page.goto(f"{site.url}/tasks")
    page.get_by_label("State").select_option("failed")
    page.get_by_label("Profile").fill("impossible")
    page.get_by_role("button", name="Filter").click()

    expect(page).to_have_url(f"{site.url}/tasks?state=failed&profile=impossible")
    expect(page.locator("tbody tr:not(.below)")).to_have_count(1)
    page.get_by_role("link", name="All tasks").click()
    expect(page.locator("tbody tr:not(.below)").nth(2)).to_be_visible()


def test_a_time_is_asked_and_shown_in_the_readers_zone(page: Page, site: Site, fleet: Fleet):
    """Nobody knows by heart what UTC is at home."""
    task = task_with(fleet, "succeeded")
    local = fleet.ask(
        "SELECT to_char(accepted_at AT TIME ZONE %s, 'HH24:MI:SS') FROM tasks WHERE id = %s", ZONE, task
    )
    minute = fleet.ask(MINUTE_AFTER, ZONE)

    page.goto(f"{site.url}/tasks?state=succeeded")
    expect(page.locator(f"#t{task}")).to_contain_text(local)
    page.get_by_label("Before").fill(minute)
    page.get_by_role("button", name="Filter").click()

    expect(page.locator(f"#t{task}")).to_contain_text(local)
    expect(page.get_by_label("Before")).to_have_value(minute.removesuffix(":00"))


def test_a_task_that_waits_is_cancelled_by_a_click(page: Page, site: Site, fleet: Fleet):
    """And the page that is open in the other window hears of it."""
    waiting = fleet.send("cancel me", profile="nowhere")
    fleet.wait_for_state(waiting, "held")
    page.goto(f"{site.url}/tasks/{waiting.id}")
    expect(page.get_by_text("If it were decided now")).to_be_visible()
    other = page.context.new_page()
    other.goto(f"{site.url}/tasks/{waiting.id}")

    page.get_by_role("button", name="Cancel this task").click()

    expect(page.locator(".title .state")).to_have_text("cancelled")
    expect(other.locator(".title .state")).to_have_text("cancelled")
    assert fleet.state(waiting) == "cancelled"


def test_a_task_is_run_again_as_it_was_asked(page: Page, site: Site, fleet: Fleet):
    """A button that asked something else than it says would be paid for."""
    given = {
        "profile": "social",
        "agent": "again",
        "seed": 7,
        "stop": ["END"],
        "max_tokens": 33,
        "patience": 5,
    }
    first = fleet.send("Once more?", metadata={"of": "mine"}, expect={"min_length": 2}, **given)
    fleet.wait_for_state(first, "succeeded")
    page.goto(f"{site.url}/tasks/{first.id}")

    page.get_by_role("button", name="Run again").click()

    expect(page.locator(".title .state")).to_have_text("succeeded")
    expect(page.locator("#answer")).to_have_text("Once more?")
    assert str(first.id) not in page.url
    same = """
        SELECT count(DISTINCT (request, needs, profile, focus, model, agent, priority, metadata)) = 1
               AND count(*) = 2
          FROM tasks
         WHERE agent = 'again'
    """
    assert fleet.ask(same) is True


def test_the_pages_can_be_used_with_the_keyboard_alone(page: Page, site: Site):
    """Also after the list was renewed: the focus stays where it was."""
    page.goto(f"{site.url}/tasks")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    first = page.locator("tbody a").first
    while not first.evaluate("element => element === document.activeElement"):
        page.keyboard.press("Tab")
    with page.expect_response("**/tasks"):
        pass
    expect(first).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.locator("h1")).to_contain_text("Task")


def test_the_password_is_asked_once(browser: Browser, fleet: Fleet):
    """And a wrong one is said to be wrong."""
    site = Site(fleet, FLEET_DASHBOARD_PASSWORD_HASH=hashed(PASSWORD))
    with context(browser) as opened:
        page = opened.new_page()
        page.goto(f"{site.url}/tasks")
        page.get_by_label("Password").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the password.")
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Models").click()
        expect(page.locator("h1")).to_have_text("Models")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        page.goto(f"{site.url}/models")
        expect(page.get_by_label("Password")).to_be_visible()


def test_a_form_on_another_site_cancels_nothing(browser: Browser, site: Site, fleet: Fleet, tmp_path: Path):
    """The browser of somebody who is on this machine is sent there by a foreign page."""
    task = task_with(fleet, "held")
    foreign = tmp_path / "foreign.html"
    action = f"{site.url}/tasks/{task}/cancel"
    foreign.write_text(f'<form method="post" action="{action}"><button>Win!</button></form>')
    with context(browser) as opened:
        page = opened.new_page()
        page.goto(foreign.as_uri())

        with page.expect_response("**/cancel") as answered:
            page.get_by_role("button").click()

        assert answered.value.status == 403
    assert fleet.ask("SELECT state FROM tasks WHERE id = %s", task) == "held"
