"""Who may come in, and from where.

On this machine everybody may, as with `fleet` itself; but only under a name of this machine, so that a page
of somebody else's cannot reach the dashboard through a name that it points here. A password, or a proxy that
has asked for one, lets others in. What changes something must come from the dashboard's own pages.
"""

import hashlib
import secrets
import time
from base64 import b64decode
from collections.abc import Mapping
from ipaddress import ip_address
from threading import Lock
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from config.settings import Settings

COOKIE = "fleet_session"

SESSION_S = 12 * 3600.0
"""A session that was not used for so long has ended."""

MOST_SESSIONS = 1000

TRIES = 5
"""Wrong passwords that one address may give within `TRIES_S`."""

TRIES_S = 60.0

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

ONLY_HERE = (
    "The dashboard is open to this machine alone, as localhost. "
    "FLEET_DASHBOARD_PASSWORD_HASH opens it to others.\n"
)

LARGEST_FORM = 10_000
"""Bytes; the only form has a password in it."""

OPEN_PATHS = ("/static/", "/login")

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Door:
    """Decides of each request whether it comes in; sessions live as long as the process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions: dict[bytes, float] = {}
        """When each was last used, by the hash of its token."""
        self.failures: dict[str, list[float]] = {}
        """When wrong passwords came, by address."""
        self.one_at_a_time = Lock()

    def refusal(self, request: Request) -> Response | None:
        """Answer a request that may not come in; None: it may."""
        if is_large(request):
            return PlainTextResponse("No form here is as large as that.\n", 413)
        if request.method not in SAFE_METHODS and not is_own(request):
            return PlainTextResponse("This form came from another site. Go back and try again.", 403)
        if request.url.path.startswith(OPEN_PATHS):
            return None
        if self.user(request) or self.has_session(request) or self.may_scrape(request):
            return None
        return self.way_in(request)

    def way_in(self, request: Request) -> Response | None:
        """Tell somebody who is not known how to become so; None: nobody has to."""
        if self.settings.dashboard_password_hash:
            if "HX-Request" in request.headers:
                return Response(status_code=401, headers={"HX-Redirect": "/login"})
            return RedirectResponse("/login", 303)
        if self.settings.dashboard_user_header:
            return PlainTextResponse("Come in through the proxy that knows who you are.", 403)
        return None if is_loopback(request.url.hostname or "") else PlainTextResponse(ONLY_HERE, 421)

    def may_scrape(self, request: Request) -> bool:
        """Tell whether Prometheus gives the password for its metrics; it has no session."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if request.url.path != "/metrics" or scheme.lower() != "basic":
            return False
        try:
            password = b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
        return self.check(request, password) is None

    def user(self, request: Request) -> str | None:
        """Tell whom a proxy names; None: nobody, or it is not one that is believed."""
        header = self.settings.dashboard_user_header
        return (request.headers.get(header) or None) if header and self.is_proxy(request) else None

    def is_proxy(self, request: Request) -> bool:
        try:
            peer = ip_address(request.client.host) if request.client else None
        except ValueError:
            return False
        return peer is not None and any(peer in network for network in self.settings.dashboard_proxies)

    def has_session(self, request: Request) -> bool:
        token = digest(request.cookies.get(COOKIE, ""))
        used_at, now = self.sessions.get(token), time.monotonic()
        if used_at is None or now - used_at > SESSION_S:
            self.sessions.pop(token, None)
            return False
        self.sessions[token] = now
        return True

    def log_in(self, request: Request, password: str) -> Response:
        """Answer a password: with a session, or with why not."""
        refused = self.check(request, password)
        if refused is not None:
            return Response(status_code=refused)
        token = secrets.token_urlsafe(32)
        if len(self.sessions) >= MOST_SESSIONS:
            del self.sessions[min(self.sessions, key=lambda each: self.sessions[each])]
        self.sessions[digest(token)] = time.monotonic()
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="lax",
            secure=self.is_https(request),
        )
        return answer

    def check(self, request: Request, password: str) -> int | None:
        """Look at a password.

        Returns:
            The HTTP status that refuses it; None: it is the right one.
        """
        peer = request.client.host if request.client else ""
        with self.one_at_a_time:  # a hash takes 64 MB and 50 ms of a processor
            now = time.monotonic()
            recent = [at for at in self.failures.get(peer, []) if now - at < TRIES_S]
            if len(recent) >= TRIES:
                return 429
            if matches(self.settings.dashboard_password_hash, password):
                return None
            self.failures = {at: when for at, when in self.failures.items() if now - when[-1] < TRIES_S}
            self.failures[peer] = [*recent, now]
            return 401

    def log_out(self, request: Request) -> Response:
        self.sessions.pop(digest(request.cookies.get(COOKIE, "")), None)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    def is_https(self, request: Request) -> bool:
        forwarded = request.headers.get("X-Forwarded-Proto") if self.is_proxy(request) else None
        return (forwarded or request.url.scheme) == "https"


def is_own(request: Request) -> bool:
    """Tell whether one of our own pages made a request; browsers say from where one comes."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("Host")


def is_large(request: Request) -> bool:
    """Tell whether a request brings more than any form here has, or does not say how much it brings."""
    length = request.headers.get("Content-Length", "0")
    is_open = "Transfer-Encoding" in request.headers
    return is_open or not length.isdecimal() or int(length) > LARGEST_FORM


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def matches(password_hash: str | None, password: str) -> bool:
    from argon2 import PasswordHasher  # noqa: PLC0415 - only where there is a password
    from argon2.exceptions import Argon2Error, InvalidHashError  # noqa: PLC0415

    try:
        return password_hash is not None and PasswordHasher().verify(password_hash, password)
    except (Argon2Error, InvalidHashError):
        return False


def hashed(password: str) -> str:
    """Hash a password as FLEET_DASHBOARD_PASSWORD_HASH holds it."""
    from argon2 import PasswordHasher  # noqa: PLC0415

    return PasswordHasher().hash(password)
