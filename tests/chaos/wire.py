"""Networks that can be cut: TCP ports on loopback that lead to a server's socket."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

CHUNK = 65536


class Wire:
    """One port that leads to one socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Path) -> None:
        self.loop = loop
        self.target = target
        self.port = 0
        self.server: asyncio.Server | None = None
        self.is_cut = False
        self.flowing = asyncio.Event()
        self.open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self.flowing.set()
        self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.is_cut:
                return
            there, to_there = await asyncio.open_unix_connection(self.target)
        except OSError:
            return
        else:
            self.open |= {writer, to_there}
            try:
                await asyncio.gather(self.pump(reader, to_there), self.pump(there, writer))
            finally:
                to_there.transport.abort()
                self.open -= {writer, to_there}
        finally:
            writer.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self.is_cut = True
        for writer in list(self.open):
            writer.transport.abort()

    async def stall(self) -> None:
        """Let nothing through; what is sent waits."""
        self.flowing.clear()

    async def mend(self) -> None:
        self.is_cut = False
        self.flowing.set()


class Network:
    """Wires, served by a thread of their own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever, name="network", daemon=True)
        self.thread.start()
        self.wires: list[Wire] = []

    def wire(self, target: Path) -> Wire:
        wire = Wire(self.loop, target)
        self.call(wire.listen())
        self.wires.append(wire)
        return wire

    def call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    async def end(self) -> None:
        """Break off every connection that is still there."""
        for wire in self.wires:
            await wire.mend()
            await wire.cut()
            if wire.server is not None:
                wire.server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)

    def close(self) -> None:
        self.call(self.end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
