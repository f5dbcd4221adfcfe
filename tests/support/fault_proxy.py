"""A TCP proxy whose wire can be made slow, thin, cut, half-open or dead while connections are on it.

It knows bytes only; `tests.support.grpc_proxy` acts on single calls. What each fault is on a real network:

- `hold`: packets of a direction are lost; TCP would send them again, so they arrive once `release` ends it;
- `forget`: something on the way lost the connections there are and drops their packets: nobody is told. New ones work;
- `reset`: connections are reset; `refuse`: nothing listens any more;
- `Wire`: latency, jitter, bandwidth, and how small the pieces are in which bytes arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

T = TypeVar("T")

UP, DOWN = "up", "down"
"""From the client to the server; back."""


@dataclass
class Wire:
    """How the wire is. May be changed at any time.

    Attributes:
        latency_seconds: How long bytes are under way, each direction.
        jitter_seconds: Up to how much longer, at random; the order stays.
        bytes_per_second: Bandwidth of each direction of each connection; 0 means unlimited.
        slice_bytes: Most bytes that arrive together; 0 means as they come.
    """

    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    bytes_per_second: int = 0
    slice_bytes: int = 0


@dataclass(eq=False)
class _Connection:
    """One client's connection and its twin to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    forgotten: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class LoopThread:
    """An event loop on a thread of its own: what both proxies run on."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def end(self) -> None:
        """Cancels what is left, and ends the thread."""

        async def cancel() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self.run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class FaultProxy:
    """Relays connections from `port` to `target_port` on loopback.

    Attributes:
        port: Port that it listens on, kept while it refuses.
        address: The same as `127.0.0.1:port`.
        wire: How the wire is now.
        accepted: Connections taken so far.
    """

    def __init__(self, target_port: int) -> None:
        self.wire = Wire()
        self.accepted = 0
        self._target_port = target_port
        self._connections: set[_Connection] = set()
        self._watchers: dict[str, Callable[[int], None]] = {}
        self._thread = LoopThread("fault-proxy")
        self._server: asyncio.Server | None = None
        self.port = 0
        self._thread.run(self._open())
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run(self._refuse())
        self._thread.run(self._reset())
        self._thread.end()

    # --- faults -----------------------------------------------------------------------------------------------------

    def hold(self, *directions: str) -> None:
        """Lets nothing pass in the given directions, both by default: of no connection, also of new ones."""
        self._thread.run(self._set_gates(directions or (UP, DOWN), passes=False))

    def release(self) -> None:
        """Lets everything pass, first what was held."""
        self._thread.run(self._set_gates((UP, DOWN), passes=True))

    def forget(self) -> int:
        """Has the connections there are lead nowhere for ever, silently. Returns their number."""
        return self._thread.run(self._forget())

    def reset(self) -> int:
        """Resets the connections there are. Returns their number."""
        return self._thread.run(self._reset())

    def refuse(self) -> None:
        """Stops listening: who connects is refused."""
        self._thread.run(self._refuse())

    def accept(self) -> None:
        """Listens again."""
        self._thread.run(self._open())

    def watch(self, direction: str, see: Callable[[int], None]) -> None:
        """Calls `see` with how many bytes of a connection were delivered in a direction, after each piece."""
        self._watchers[direction] = see

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if not self.port:
            self._gates = {UP: asyncio.Event(), DOWN: asyncio.Event()}
            await self._set_gates((UP, DOWN), passes=True)
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _set_gates(self, directions: tuple[str, ...], *, passes: bool) -> None:
        for direction in directions:
            if passes:
                self._gates[direction].set()
            else:
                self._gates[direction].clear()

    async def _forget(self) -> int:
        live = [connection for connection in self._connections if not connection.forgotten]
        for connection in live:
            connection.forgotten = True
        return len(live)

    async def _reset(self) -> int:
        live = list(self._connections)
        for connection in live:
            for writer in (connection.client, connection.server):
                _reset_on_close(writer)
                writer.transport.abort()
            for task in connection.tasks:
                task.cancel()
        return len(live)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled with the proxy; asyncio would make a noise about a handler that ends so.
        with contextlib.suppress(asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset_on_close(writer)
            writer.transport.abort()
            return
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        connection.tasks = [
            asyncio.create_task(self._relay(connection, reader, server_writer, UP)),
            asyncio.create_task(self._relay(connection, server_reader, writer, DOWN)),
        ]
        await asyncio.wait(connection.tasks, return_when=asyncio.FIRST_COMPLETED)
        # An end is told through the same faults as bytes: a forgotten connection's is never told.
        if connection.forgotten:
            await asyncio.Event().wait()
        for task in connection.tasks:
            task.cancel()
        for end in (writer, server_writer):
            end.close()
        self._connections.discard(connection)

    async def _relay(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str
    ) -> None:
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

        async def deliver() -> None:
            delivered = 0
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                await self._gates[direction].wait()
                if connection.forgotten:
                    continue
                if not data:
                    return
                writer.write(data)
                await writer.drain()
                delivered += len(data)
                if direction in self._watchers:
                    self._watchers[direction](delivered)
                if self.wire.bytes_per_second:
                    await asyncio.sleep(len(data) / self.wire.bytes_per_second)

        delivery = asyncio.create_task(deliver())
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    wire = self.wire
                    due = loop.time() + wire.latency_seconds + random.uniform(0, wire.jitter_seconds)
                    size = wire.slice_bytes or len(data)
                    for start in range(0, len(data), size):
                        await under_way.put((due, data[start : start + size]))
            await under_way.put((loop.time(), b""))
            with contextlib.suppress(OSError):
                await delivery
        finally:
            delivery.cancel()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Has the kernel send a reset, not an end, when this socket is closed."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
