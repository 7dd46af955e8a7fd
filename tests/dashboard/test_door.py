"""Who may come in: everybody on this machine, else who has the password or comes through the proxy."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from config.catalog import Catalog
from config.errors import SettingsError
from config.settings import read_settings
from dashboard.door import COOKIE, LARGEST_FORM, TRIES, hashed
from dashboard.server import run_dashboard

PASSWORD = "correct horse battery staple"

OWN = {"Sec-Fetch-Site": "same-origin"}

Visit = Callable[..., TestClient]


@pytest.fixture(scope="module")
def with_password() -> dict[str, str]:
    return {"FLEET_DASHBOARD_PASSWORD_HASH": hashed(PASSWORD)}


def log_in(client: TestClient, password: str = PASSWORD) -> int:
    return client.post("/login", data={"password": password}, headers=OWN).status_code


@pytest.mark.parametrize("host", ["http://localhost:5550", "http://127.0.0.1:5550", "http://[::1]:5550"])
def test_this_machine_comes_in_without_a_password(visit: Visit, host: str):
    """As with `fleet` itself: who can read the socket can read the pages."""
    assert visit(host=host).get("/tasks").status_code == 200


def test_a_foreign_name_for_this_machine_does_not_come_in(visit: Visit):
    """A page of somebody else's can point its own name at 127.0.0.1 and read what it likes."""
    answer = visit(host="http://evil.example:5550").get("/tasks")

    assert answer.status_code == 421
    assert "<table" not in answer.text


def test_others_are_not_let_in_without_a_password_or_a_proxy(catalog: Catalog):
    """The prompts of all agents would be open to the network."""
    for address in ("0.0.0.0", "10.1.2.3", "::", "fleet.example"):
        with pytest.raises(SettingsError, match="FLEET_DASHBOARD_PASSWORD_HASH"):
            run_dashboard(read_settings({"FLEET_DASHBOARD_ADDRESS": address}), catalog)


def test_the_password_opens_a_session_and_signing_out_ends_it(visit: Visit, with_password: dict[str, str]):
    """What was signed out must be of no use to who has the cookie."""
    client = visit(peer="10.0.0.9", host="http://fleet.example", **with_password)

    assert client.get("/tasks").headers["location"] == "/login"
    assert log_in(client, "wrong") == 401
    assert client.get("/tasks").status_code == 303
    assert log_in(client) == 303
    assert client.get("/tasks").status_code == 200
    kept = client.cookies[COOKIE]
    assert client.post("/logout", headers=OWN).status_code == 303
    assert client.get("/tasks", headers={"Cookie": f"{COOKIE}={kept}"}).status_code == 303


def test_the_cookie_is_for_this_site_and_no_script(visit: Visit, with_password: dict[str, str]):
    """A script that got in all the same must not carry the session away."""
    client = visit(peer="10.0.0.9", host="https://fleet.example", **with_password)

    answer = client.post("/login", data={"password": PASSWORD}, headers=OWN)

    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=lax", "secure", "path=/"))


def test_a_form_has_an_end(visit: Visit, with_password: dict[str, str]):
    """Who has no password could otherwise fill the memory with one."""
    client = visit(peer="10.0.0.9", host="http://fleet.example", **with_password)

    assert log_in(client, "x" * LARGEST_FORM) == 413
    assert client.post("/login", content=iter([b"password=", b"x"]), headers=OWN).status_code == 413
    assert log_in(client) == 303


def test_passwords_cannot_be_tried_without_end(visit: Visit, with_password: dict[str, str]):
    """Also the right one is not looked at then; or the answer would tell."""
    client = visit(peer="10.0.0.9", host="http://fleet.example", **with_password)

    assert [log_in(client, f"guess {number}") for number in range(TRIES)] == [401] * TRIES
    assert log_in(client, "one more") == 429
    assert log_in(client) == 429


def test_every_page_and_button_is_behind_the_password(visit: Visit, with_password: dict[str, str]):
    """One forgotten route would be enough."""
    client = visit(peer="10.0.0.9", host="http://fleet.example", **with_password)
    task = "/tasks/00000000-0000-0000-0000-000000000000"

    for path in ("/", "/tasks", task, f"{task}/prompt.txt", "/models", "/workers", "/schedules", "/agents"):
        assert client.get(path).headers.get("location") == "/login", path
    for path in (f"{task}/cancel", f"{task}/again"):
        assert client.post(path, headers=OWN).headers.get("location") == "/login", path
    assert client.get("/tasks", headers={"HX-Request": "true"}).headers["HX-Redirect"] == "/login"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:5550"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_a_form_of_another_site_does_nothing(pages: TestClient, headers: dict[str, str]):
    """Somebody who is signed in looks at another page, which cancels tasks or enqueues them."""
    for path in ("/tasks/00000000-0000-0000-0000-000000000000/cancel", "/login", "/logout"):
        answer = pages.post(path, headers=headers)
        assert (answer.status_code, "another site" in answer.text) == (403, True), path


def test_a_form_of_our_own_pages_is_heard(pages: TestClient):
    """Browsers on plain HTTP send Origin alone."""
    path = "/tasks/00000000-0000-0000-0000-000000000000/cancel"

    assert pages.post(path, headers={"Origin": "http://localhost:5550"}).status_code == 404
    assert pages.post(path, headers=OWN).status_code == 404


def test_prometheus_reads_the_metrics_with_the_password_and_nothing_else(
    visit: Visit, with_password: dict[str, str]
):
    """A scraper fills in no form."""
    client = visit(peer="10.0.0.9", host="http://fleet.example", **with_password)

    assert client.get("/metrics").status_code == 303
    assert client.get("/metrics", auth=("prometheus", "wrong")).status_code == 303
    assert client.get("/metrics", headers={"Authorization": "Basic ?"}).status_code == 303
    assert client.get("/tasks", auth=("prometheus", PASSWORD)).status_code == 303
    found = client.get("/metrics", auth=("prometheus", PASSWORD))
    assert found.headers["Content-Type"].startswith("text/plain")
    assert "fleet_brain_leading 0.0" in found.text


def test_a_proxy_names_who_comes_in(visit: Visit):
    """Only the proxy is believed: anybody can write a header."""
    by_proxy = {"FLEET_DASHBOARD_USER_HEADER": "X-Forwarded-User", "FLEET_DASHBOARD_PROXIES": "10.0.0.0/24"}
    named = {"X-Forwarded-User": "robin"}

    proxy = visit(peer="10.0.0.7", host="http://fleet.example", **by_proxy)
    assert proxy.get("/tasks", headers=named).status_code == 200
    assert proxy.get("/tasks").status_code == 403
    assert proxy.get("/tasks", headers={"X-Forwarded-User": ""}).status_code == 403
    somebody = visit(peer="10.0.1.7", host="http://localhost", **by_proxy)
    assert somebody.get("/tasks", headers=named).status_code == 403


def test_headers_forbid_inline_scripts_frames_and_other_sites(pages: TestClient):
    """What gets through the escaping must still not run."""
    for path in ("/tasks", "/static/fleet.js", "/nothing"):
        headers = pages.get(path).headers
        rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == "'self'"
        assert rules["frame-ancestors"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert pages.get("/tasks").headers["Cache-Control"] == "no-store"


def test_no_page_has_an_inline_script_style_or_foreign_address(pages: TestClient):
    """The policy would block it, and the page would be broken without a word."""
    for path in ("/", "/tasks", "/models", "/workers", "/schedules", "/agents", "/login"):
        page = pages.get(path).text
        assert "<style" not in page
        assert not [part for part in page.split("<script")[1:] if not part.startswith(' src="/static/')], path
        assert " style=" not in page
        assert " onclick=" not in page
        assert 'src="http' not in page


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLEET_DASHBOARD_PASSWORD_HASH", "hunter2"),
        ("FLEET_DASHBOARD_PROXIES", "10.0.0.300"),
        ("FLEET_DASHBOARD_PORT", "http"),
    ],
)
def test_settings_that_cannot_hold_are_refused_without_the_secret(name: str, value: str):
    """A password in the place of its hash would be printed, and never match."""
    with pytest.raises(SettingsError, match=name) as refused:
        read_settings({name: value})

    assert "hunter2" not in str(refused.value)


def test_the_command_prints_a_hash_that_the_setting_takes():
    """The hash is made nowhere else."""
    made = subprocess.run(
        [sys.executable, "-m", "workers.cli", "dashboard", "--hash-password"],
        input=f"{PASSWORD}\n{PASSWORD}\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    assert read_settings({"FLEET_DASHBOARD_PASSWORD_HASH": made}).dashboard_password_hash == made
