"""OpenAI's HTTP API, as streams of events: one thread keeps one connection to a provider and uses it again.

Not litellm and no SDK, for OpenAI-compatible providers. litellm 1.106.2 gives a stream that was cut the
finish reason `stop` and counts the tokens that it did not get, its read limits count an answer's keep-alive
comments as life, and it takes 18 ms of processor time for a streamed answer of 8 tokens where this takes 0.7
(measured on 2 shared cores, 2026-11).
"""

import io
import json
import select
import socket
import ssl
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from workers.engines.cloud_watch import CONNECT_S, TooLateError, Watch
from workers.values import is_nested_deeper

POLL_S = 1.0
"""How long a read blocks before the watch is asked again."""

PIECE = 65536

MOST_BYTES = 64 * 2**20
"""Of an answer; more is not an answer."""

MOST_OF_A_REFUSAL = 2**20
"""Bytes; what a refusal means is said at its beginning, and is searched for many words."""

MOST_LEVELS = 100
"""Of lists and objects in each other: what walks an answer calls itself for each."""

IDLE_S = 30.0
"""A connection that was idle for longer is not used again: who is in between may have forgotten it."""

HTTPS_PORT = 443

DONE = b"[DONE]"

Event = Mapping[str, Any]
"""A chat.completion.chunk, a whole chat.completion, or an error."""


class RefusedError(Exception):
    """The provider answered with an error status."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body


class LostError(Exception):
    """There is no connection, or it broke."""

    def __init__(self, why: str, *, is_sent: bool) -> None:
        super().__init__(why)
        self.is_sent = is_sent
        """Whether the provider may have begun to answer."""


class GarbledError(Exception):
    """What came is no answer; says what came instead, without quoting it."""


class Wire:
    """A provider's API at one base URL."""

    def __init__(self, api_base: str, key: str | None) -> None:
        parts = urlsplit(api_base)
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._base = parts.path.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": "aria-fleet",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        self._tls = tls_context() if self._is_tls else None
        self._mine = threading.local()
        self._open: set[HTTPConnection] = set()

    def events(self, asked: Mapping[str, Any], watch: Watch) -> Generator[Event]:
        """Ask for a chat completion; whoever leaves off early ends the connection.

        Raises:
            RefusedError: an error status.
            LostError: no connection, or it broke.
            GarbledError: what came is no answer.
            TooLateError, CalledOffError: from the watch.
        """
        yield from self._ask("/chat/completions", asked, watch, lambda body: events_in(lines(pieces(body))))

    def document(self, path: str, watch: Watch, asked: Mapping[str, Any] | None = None) -> Event:
        """Get a JSON document, or send one and get another.

        Raises:
            RefusedError, LostError, GarbledError, TooLateError, CalledOffError: as for `events`.
        """
        [found] = self._ask(path, asked, watch, lambda body: iter([parsed(rest_of(body))]))
        return found

    def _ask(
        self,
        path: str,
        asked: Mapping[str, Any] | None,
        watch: Watch,
        read: Callable[[HTTPResponse], Iterator[Event]],
    ) -> Generator[Event]:
        connection = self._connection(watch)
        is_clean = False
        try:
            response = send(connection, f"{self._base}{path}", asked, self._headers, watch)
            if response.status >= 400:
                body = beginning_of(response)
                is_clean = response.isclosed() and end(response)
                raise RefusedError(response.status, dict(response.headers.items()), body)
            yield from read(response)
            with suppress(TooLateError, GarbledError, OSError, HTTPException):  # the answer is whole
                watch.whole()
                is_clean = not rest_of(response) and end(response)
        except (OSError, HTTPException) as fault:
            raise LostError(in_words(fault), is_sent=True) from None
        finally:
            if is_clean:
                self._mine.used_at = time.monotonic()
            else:
                self._forget(connection)

    def close(self) -> None:
        """End all connections; nobody uses them any more."""
        for connection in list(self._open):
            self._forget(connection)

    def _connection(self, watch: Watch) -> HTTPConnection:
        """Give this thread's connection, as far as is known a good one."""
        connection: HTTPConnection | None = getattr(self._mine, "connection", None)
        if connection is not None and connection.sock is not None:
            if time.monotonic() - self._mine.used_at < IDLE_S and not has_ended(connection.sock):
                return connection
            self._forget(connection)
        self._mine.connection = connection = self._connect(watch)
        return connection

    def _connect(self, watch: Watch) -> HTTPConnection:
        limit_s = min(CONNECT_S, watch.left())
        if self._tls is None:
            made = HTTPConnection(self._host, self._port, timeout=limit_s)
        elif (proxy := proxy_for(self._host)) is None:
            made = HTTPSConnection(self._host, self._port, timeout=limit_s, context=self._tls)
        else:
            made = HTTPSConnection(proxy.hostname or "", proxy.port, timeout=limit_s, context=self._tls)
            made.set_tunnel(self._host, self._port or HTTPS_PORT, headers=credentials(proxy))
        try:
            made.connect()
        except (OSError, HTTPException) as fault:
            made.close()
            raise LostError(in_words(fault), is_sent=False) from None
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(made)
        return made

    def _forget(self, connection: HTTPConnection) -> None:
        self._open.discard(connection)
        connection.close()


class WatchedSocket(io.RawIOBase):
    """A connection's reading side, in which every read is bounded by the watch."""

    def __init__(self, sock: socket.socket, watch: Watch) -> None:
        self._sock = sock
        self._watch = watch
        self._hold = sock.makefile("rb", buffering=0)
        """http.client closes the socket before the body of an answer with `Connection: close` is read; it
        stays open as long as somebody holds it."""

    def close(self) -> None:
        """Let go of the connection."""
        self._hold.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any, /) -> int:  # noqa: ANN401 - a buffer
        """Read what is there, or wait for it as long as the watch allows."""
        while True:
            self._sock.settimeout(min(self._watch.left(), POLL_S))
            with suppress(TimeoutError):
                return self._sock.recv_into(into)

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """Be what HTTPResponse expects of a socket."""
        return io.BufferedReader(self, PIECE)


def send(
    connection: HTTPConnection,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    watch: Watch,
) -> HTTPResponse:
    """Send a request, and wait for the headers of its answer."""
    sock = connection.sock
    sock.settimeout(watch.left())
    connection.response_class = lambda _, **options: HTTPResponse(WatchedSocket(sock, watch), **options)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType] - it calls makefile, nothing else
    if body is None:
        connection.request("GET", path, headers=dict(headers))
    else:
        connection.request("POST", path, body=json.dumps(body).encode(), headers=dict(headers))
    return connection.getresponse()


def end(response: HTTPResponse) -> bool:
    """End a response that was read to its end; the result is whether its connection can be used again."""
    response.close()
    return not response.will_close


def pieces(response: HTTPResponse) -> Iterator[bytes]:
    """Read a body as it comes, unpacked if it was packed.

    Raises:
        GarbledError: it is too large, or not packed as its headers say.
    """
    packed = (response.headers.get("Content-Encoding") or "").lower() in ("gzip", "deflate")
    unpack = zlib.decompressobj(wbits=47) if packed else None
    came = 0
    while piece := response.read1(PIECE):
        if unpack is not None:
            try:
                piece = unpack.decompress(piece)
            except zlib.error:
                raise GarbledError("a body that cannot be unpacked") from None
        came += len(piece)
        if came > MOST_BYTES:
            raise GarbledError(f"more than {MOST_BYTES >> 20} MB")
        yield piece


def rest_of(response: HTTPResponse) -> bytes:
    return b"".join(pieces(response))


def beginning_of(response: HTTPResponse) -> bytes:
    """Read a body, if it is long only its beginning."""
    begun = bytearray()
    for piece in pieces(response):
        begun += piece
        if len(begun) > MOST_OF_A_REFUSAL:
            break
    return bytes(begun[:MOST_OF_A_REFUSAL])


def lines(stream: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a stream into lines, each looked at once however many pieces it comes in."""
    begun: list[bytes] = []
    for piece in stream:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for line in others:
            yield b"".join(begun).rstrip(b"\r")
            begun = [line]
    yield b"".join(begun)


def events_in(stream: Iterator[bytes]) -> Iterator[Event]:
    """Read server-sent events up to [DONE], or the one JSON document that was sent instead of a stream.

    Which of the two it is, is told by how it begins: content types are often wrong.

    Raises:
        GarbledError: it is neither.
    """
    for line in stream:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == DONE:
                return
            yield parsed(data)
        elif line.lstrip()[:1] == b"{":
            yield parsed(b"\n".join((line, *stream)))
        elif line.strip() and line.partition(b":")[0] not in (b"", b"event", b"id", b"retry"):
            raise GarbledError("neither events nor JSON")


def parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise GarbledError("JSON that is broken") from None
    if not isinstance(found, dict):
        raise GarbledError("JSON that is no object")
    if is_nested_deeper(MOST_LEVELS, data, found):
        raise GarbledError("JSON that is nested too deep")
    return found


def has_ended(sock: socket.socket) -> bool:
    """Tell whether the other side has ended an idle connection: then there is something to read, its end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def proxy_for(host: str) -> SplitResult | None:
    """Find the proxy that this system's settings name (HTTPS_PROXY, NO_PROXY); None: there is none."""
    named = getproxies().get("https")
    if not named or proxy_bypass(host):
        return None
    return urlsplit(named if "://" in named else f"http://{named}")


def credentials(proxy: SplitResult) -> dict[str, str]:
    """Write the header that tells a proxy who asks."""
    if proxy.username is None:
        return {}
    said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(said.encode()).decode()}"}


def tls_context() -> ssl.SSLContext:
    """Trust what this system trusts, and certifi's list: some Pythons come without any."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        import certifi  # noqa: PLC0415

        context.load_verify_locations(certifi.where())
    return context


def in_words(fault: Exception) -> str:
    """Say what broke; the libraries' own words may quote what was sent."""
    match fault:
        case ConnectionRefusedError():
            return "the connection was refused"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was reset"
        case socket.gaierror():
            return "its name cannot be resolved"
        case ssl.SSLCertVerificationError():
            return "its certificate is not trusted"
        case TimeoutError():
            return "no connection in time"
        case _:
            return f"the connection broke ({type(fault).__name__})"
