"""A proxy between peers and a broker over TCP: it cuts, holds up and slows down what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

#: The doors of a broker, at three ports in a row.
DOORS = ("clients", "kernels", "table")
HOST = "127.0.0.1"
#: Bytes that are passed on at once.
PIECE = 16_384


def three_ports(chance: random.Random) -> int:
    """The first of three free ports in a row, below those that the system gives away by itself."""
    while True:
        first = chance.randrange(12_000, 30_000)
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for port in range(first, first + 3):
                sockets.enter_context(socket.socket()).bind((HOST, port))
            return first


class Wire:
    """One connection through the proxy."""

    def __init__(self, ends: list[asyncio.StreamWriter]) -> None:
        self.ends = ends
        self.flows = asyncio.Event()
        self.flows.set()
        #: seconds that each piece waits
        self.delay = 0.0

    def reset(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """Listens at three ports in a row from *port* on, and passes on to those from *target* on.

    *rate*: bytes a second that each connection carries at most (None: as many as come). Any thread may call it.
    """

    def __init__(self, port: int, target: int, rate: float | None = None) -> None:
        self.port, self.target, self.rate = port, target, rate
        self.wires: dict[str, set[Wire]] = {door: set() for door in DOORS}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(50)

    @property
    def url(self) -> str:
        return f"tcp://{HOST}:{self.port}"

    def cut(self, door: str, share: float, chance: random.Random) -> None:
        """Reset this number of the door's connections, with all that is on its way."""
        self._each(door, share, chance, Wire.reset)

    def hold(self, door: str, share: float, seconds: float, chance: random.Random) -> None:
        """Carry nothing for some seconds; then half of the connections go on, and half are reset."""

        def hold(wire: Wire) -> None:
            wire.flows.clear()
            then = wire.reset if chance.random() < 0.5 else wire.flows.set
            self._loop.call_later(seconds, then)

        self._each(door, share, chance, hold)

    def slow(self, door: str, share: float, seconds: float, chance: random.Random) -> None:
        """Let every piece wait a while, for some seconds."""

        def slow(wire: Wire) -> None:
            wire.delay = chance.uniform(0.02, 0.3)
            self._loop.call_later(seconds, setattr, wire, "delay", 0.0)

        self._each(door, share, chance, slow)

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(50)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _each(self, door: str, share: float, chance: random.Random, what: Callable[[Wire], None]) -> None:
        def now() -> None:
            for wire in list(self.wires[door]):
                if chance.random() < share:
                    what(wire)

        self._loop.call_soon_threadsafe(now)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> None:
        for number, door in enumerate(DOORS):
            serve = self._serving(door, self.target + number)
            self._servers.append(await asyncio.start_server(serve, HOST, self.port + number, limit=PIECE))

    def _serving(self, door: str, port: int) -> Callable[[Any, Any], Any]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            wire = Wire([writer])
            try:
                far_reader, far = await asyncio.open_connection(HOST, port, limit=PIECE)
                wire.ends.append(far)
                self.wires[door].add(wire)
                pumps = [self._pump(wire, reader, far), self._pump(wire, far_reader, writer)]
                await asyncio.gather(*pumps)
            except (OSError, asyncio.CancelledError):
                pass  # no broker listens there, or all is over
            finally:
                wire.reset()
                self.wires[door].discard(wire)
                self._tasks.discard(task)

        return serve

    async def _pump(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction; its end is that of both."""
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                await wire.flows.wait()
                if wire.delay or self.rate:
                    await asyncio.sleep(wire.delay + (len(data) / self.rate if self.rate else 0.0))
                writer.write(data)
                await writer.drain()
        wire.flows.set()
        wire.reset()
