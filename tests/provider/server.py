"""The server: HTTP/1.1 by hand, so that it can break it where a library would not."""

import asyncio
import json
import socket
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from threading import Event, Thread
from typing import Any, Self

from tests.provider.books import MTOK, Books, Limits, Served, clock
from tests.provider.dialects import Dialect, Name, Refusal
from tests.provider.faults import Fault

BACKLOG = 1000


@dataclass
class Call:
    """A request while it is answered: what was asked, and the wire to answer on."""

    provider: "Provider"
    served: Served
    body: Mapping[str, Any]
    writer: asyncio.StreamWriter
    zipped: Any = None
    """What packs the stream; None: it goes out as it is."""
    is_open: bool = False
    """Whether headers were sent."""

    @property
    def dialect(self) -> Dialect:
        return self.provider.dialect

    @property
    def prompt(self) -> str:
        if "input" in self.body:
            return " ".join(self.body["input"])
        return str(self.body["messages"][-1].get("content") or "")

    @property
    def words(self) -> list[str]:
        """The words of the answer: what was asked, as the echo engine does."""
        words = [f"{word} " for word in self.prompt.split()] or ["hello "]
        words[-1] = words[-1].strip()
        return words

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error, or with any other whole body."""
        status, headers, body = refusal
        self.served.status = status
        sent = {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}
        await self.head(status, sent)
        await self.raw(body)

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.served.status = status
        self.is_open = True
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        await self.raw("\r\n".join(lines).encode())

    async def open(self, content_type: str = "text/event-stream") -> None:
        """Begin a stream."""
        coding = {"Content-Encoding": "gzip"} if self.zipped else {}
        await self.head(200, {"Content-Type": content_type, **coding, "Transfer-Encoding": "chunked"})

    async def send(self, data: bytes) -> None:
        """Send a piece of the stream, as one HTTP chunk."""
        if not self.is_open:
            await self.open()
        if self.zipped:
            data = self.zipped.compress(data) + self.zipped.flush(zlib.Z_SYNC_FLUSH)
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, event: Mapping[str, Any] | str) -> None:
        data = event if isinstance(event, str) else json.dumps(event)
        await self.send(f"data: {data}\n\n".encode())

    async def delta(self, delta: Mapping[str, Any], finish_reason: str | None = None, **more: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, **more}
        await self.event({**self.frame, "choices": [choice]})

    @property
    def frame(self) -> dict[str, Any]:
        return {"id": "gen-1", "object": "chat.completion.chunk", "created": 1, "model": self.served.model}

    async def close_stream(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Break the connection off, so that the other side gets a reset."""
        made: socket.socket = self.writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # ---- a whole answer ----

    async def answer(self) -> None:
        """Answer as asked: the prompt's words, one to a chunk, then usage; or all of it in one piece."""
        if "input" in self.body:
            await self.embed()
            return
        if not self.body.get("stream"):
            await self.in_one_piece()
            return
        await self.speak()
        await self.finish()

    async def embed(self) -> None:
        """Answer with the lengths of the first words of each text, the last text first."""
        self.charge()
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": [len(word) for word in f"{text} a b".split()[:3]],
            }
            for index, text in enumerate(self.body["input"])
        ]
        usage = {"prompt_tokens": self.served.prompt_tokens, "total_tokens": self.served.prompt_tokens}
        found = {"object": "list", "data": data[::-1], "model": self.served.model, "usage": usage}
        self.served.is_whole = True
        await self.refuse((200, {}, json.dumps(found).encode()))

    async def in_one_piece(self) -> None:
        """Answer without a stream."""
        self.served.completion_tokens = len(self.words)
        self.charge()
        message = {"role": "assistant", "content": "".join(self.words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = self.dialect.usage(self.usage(), f"{self.served.cost_usd:f}")
        self.served.is_whole = True
        whole = {**self.frame, "object": "chat.completion", "choices": [choice], "usage": usage}
        await self.refuse((200, {}, json.dumps(whole).encode()))

    async def speak(self, words: int | None = None) -> None:
        await self.delta({"role": "assistant", "content": ""})
        said = self.words[: self.body.get("max_tokens") or None]
        pause_s = self.provider.between_s
        if pause_s == 0 and words is None:
            await self.at_once(said)
            return
        for word in said[:words]:
            await asyncio.sleep(pause_s)
            await self.delta({"content": word})
            self.served.completion_tokens += 1

    async def at_once(self, said: list[str]) -> None:
        """Send all deltas in few packets, as a fast provider does."""
        chunks = (
            {**self.frame, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
            for word in said
        )
        await self.send("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode())
        self.served.completion_tokens += len(said)

    async def finish(self, *, usage: bool = True, done: bool = True, reason: str | None = None) -> None:
        """End an answer, and write it into the books."""
        cut = len(self.words) > (self.body.get("max_tokens") or len(self.words))
        self.charge()
        reason = reason or ("length" if cut else "stop")
        told = self.dialect.usage(self.usage(), f"{self.served.cost_usd:f}")
        in_choice = self.dialect.name == "moonshot" and usage
        await self.delta({}, reason, **({"usage": told} if in_choice else {}))
        if usage and not in_choice:
            await self.event({**self.frame, "choices": [], "usage": told})
        self.served.is_whole = True
        if done:
            await self.event("[DONE]")
        await self.close_stream()

    def charge(self) -> None:
        """Write tokens and dollars into the books."""
        served, provider = self.served, self.provider
        texts = self.body.get("input") or [message.get("content") for message in self.body["messages"]]
        served.prompt_tokens = sum(len(str(text or "").split()) for text in texts)
        served.cached_tokens = min(provider.cached_tokens, served.prompt_tokens)
        fresh = served.prompt_tokens - served.cached_tokens
        served.cost_usd = (
            fresh * provider.input_usd_per_mtok
            + served.cached_tokens * provider.cached_usd_per_mtok
            + served.completion_tokens * provider.output_usd_per_mtok
        ) / MTOK

    def usage(self) -> dict[str, Any]:
        served = self.served
        return {
            "prompt_tokens": served.prompt_tokens,
            "completion_tokens": served.completion_tokens,
            "total_tokens": served.prompt_tokens + served.completion_tokens,
            "cached_tokens": served.cached_tokens,
        }


class Provider:
    """A provider that runs in a thread of this process, at `url`."""

    def __init__(
        self,
        dialect: Name = "openai",
        *,
        keys: tuple[str, ...] = (),
        limits: Limits | None = None,
        delay_s: float = 0.0,
        between_s: float = 0.0,
        port: int = 0,
    ) -> None:
        """Prepare.

        Args:
            dialect: whose errors, headers and usage it writes.
            keys: the ones that it knows; none: any.
            limits: of all keys together.
            delay_s: before the first byte.
            between_s: between two tokens.
            port: 0: any that is free.
        """
        self.dialect = Dialect(dialect)
        self.keys = keys
        self.limits = limits
        self.delay_s = delay_s
        self.between_s = between_s
        self.port = port
        self.books = Books()
        self.input_usd_per_mtok = Decimal(1)
        self.output_usd_per_mtok = Decimal(2)
        self.cached_usd_per_mtok = Decimal("0.1")
        self.cached_tokens = 0
        self.credit_usd: Decimal | None = None
        """What it says is left of the account; None: no bound."""
        self.is_free_tier = True
        self.asked_for_account = 0
        self.faults: dict[str | None, Fault] = {}
        self.queued: deque[Fault] = deque()
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self.is_ready = Event()
        self.thread = Thread(target=self.run, name="provider", daemon=True)

    def always(self, fault: Fault | None, model: str | None = None) -> None:
        """Misbehave so from now on, for one model or for all; None: behave."""
        self.faults.pop(model, None)
        if fault is not None:
            self.faults[model] = fault

    def once(self, *faults: Fault) -> None:
        """Misbehave so with the next requests, one each."""
        self.queued.extend(faults)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG)
        self.port = listening.getsockname()[1]
        self.listening = listening
        self.thread.start()
        self.is_ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.listening.close()

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.serve, sock=self.listening))
        self.is_ready.set()
        self.loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until either side ends it."""
        self.connections += 1
        # asyncio does so by itself, but not for a socket that was made without naming its protocol.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            async for path, headers, body in requests(reader):
                await self.respond(path, headers, body, writer)
                if writer.is_closing():
                    break
        writer.close()

    async def respond(
        self, path: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        key = headers.get("authorization", "").removeprefix("Bearer ")
        asked: dict[str, Any] = json.loads(body) if body else {}
        served = Served(key=key, model=str(asked.get("model")), at=clock(), body=asked)
        call = Call(self, served, asked, writer)
        if not path.endswith(("/chat/completions", "/embeddings")):
            await self.tell_account(path, call)
            return
        self.books.begin(served)
        try:
            await self.decide(call)
        finally:
            self.books.end()

    async def tell_account(self, path: str, call: Call) -> None:
        """Say what is left of the account, where this dialect has that."""
        self.asked_for_account += 1
        if self.keys and call.served.key not in self.keys:
            await call.refuse(self.dialect.wrong_key())
            return
        account = self.dialect.account(self.credit_usd, is_free_tier=self.is_free_tier)
        if account is None or not path.endswith(account[0]):
            await call.refuse((404, {}, self.dialect.error(404, "Not found")))
            return
        await call.refuse((200, {}, json.dumps(account[1]).encode()))

    async def decide(self, call: Call) -> None:
        """Answer, refuse, or misbehave."""
        if self.keys and call.served.key not in self.keys:
            await call.refuse(self.dialect.wrong_key())
            return
        refused = self.books.why_refused(self.limits, clock()) if self.limits else None
        if refused and self.limits:
            window = "per-day" if refused == "per-day" else "per-min"
            await call.refuse(self.dialect.slow_down(after_s=self.limits.minute_s, window=window))
            return
        await asyncio.sleep(self.delay_s)
        fault = self.queued.popleft() if self.queued else None
        fault = fault or self.faults.get(call.served.model) or self.faults.get(None)
        if fault is None:
            await call.answer()
        else:
            await fault(call)


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, dict[str, str], bytes]]:
    """Read the requests of a connection: (path, headers, body)."""
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        yield head[0].split(" ")[1], headers, body
