"""A gRPC proxy that does to single calls and messages what networks and balancers do to them.

It relays every method as bytes, unary or streaming, and knows none. `inject` has the next calls of a method, or the
next messages of a stream, suffer one fault. What has reached the server stays there: a caller that gives up takes
nothing back, as on a real network.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

import grpc
import grpc.aio
from tests.support.fault_proxy import LoopThread

UPSTREAM_SECONDS = 60.0
"""Deadline of a call whose caller is gone."""

TWIN_SECONDS = 2.0
"""How long an answer waits for that of its duplicate: a long poll's may take for ever."""


class Fault(Enum):
    """What happens to one call, or to one message of a stream."""

    EATEN = "the server has committed, the connection breaks before the answer"
    HELD = "the server has committed, the answer never comes"
    DUPLICATED = "the request arrives twice; the first answer is passed on, of a stream all"
    ECHOED = "the request arrives a second time, some time after its answer was passed on"
    DELAYED = "the request arrives late, whether its caller still waits or not"
    OVERTAKEN = "the request arrives after the caller's next one of this method was answered"
    ANSWERED = "the proxy answers with a status; the server hears nothing"


_OF_ANSWERS = (Fault.EATEN, Fault.HELD, Fault.ECHOED)
"""Faults that are decided when the server has answered."""


@dataclass(eq=False)
class Injection:
    """One fault that waits for its calls.

    Attributes:
        method: End of the method's path: `AcceptFlowRun`.
        fault: What to do.
        times: How many calls or messages it takes.
        skip: How many pass unharmed before.
        seconds: How long `DELAYED` and `ECHOED` wait.
        status: What `ANSWERED` answers.
        only: Takes a request's bytes; False leaves it alone.
        answers: For faults of answers: takes an answer's bytes; False leaves it alone.
        hits: How often it was done.
        happened: Set when it was done `times` times.
    """

    method: str
    fault: Fault
    times: int = 1
    skip: int = 0
    seconds: float = 0.0
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    only: Callable[[bytes], bool] | None = None
    answers: Callable[[bytes], bool] | None = None
    hits: int = 0
    happened: threading.Event = field(default_factory=threading.Event)

    def takes(self, method: str, request: bytes, answer: bytes | None) -> bool:
        """Counts a request that came (`answer` is None), or its answer; True when the fault befalls it."""
        if not method.endswith(f"/{self.method}") or self.hits >= self.times:
            return False
        if (self.fault in _OF_ANSWERS) != (answer is not None):
            return False
        if self.only is not None and not self.only(request):
            return False
        if answer is not None and self.answers is not None and not self.answers(answer):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        if self.hits == self.times:
            self.happened.set()
        return True


class GrpcProxy:
    """Relays calls from `port` to `target` (`host:port`).

    Attributes:
        port: Port that it listens on.
        address: `127.0.0.1:port`.
        calls: Requests that came, by method name; each message of a stream counts.
        delivered: Requests that reached the server.
    """

    def __init__(self, target: str) -> None:
        self.calls: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self._target = target
        self._injections: list[Injection] = []
        self._answered: dict[str, asyncio.Event] = {}
        self._ghosts: set[asyncio.Task[Any]] = set()
        self._thread = LoopThread("grpc-proxy")
        self.port = self._thread.run(self._open())
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run(self._close())
        self._thread.end()

    def inject(self, method: str, fault: Fault, **options: Any) -> Injection:
        """Has a fault befall the next calls of `method`. `options`: fields of `Injection`."""
        injection = Injection(method, fault, **options)
        self._injections.append(injection)
        return injection

    def clear(self) -> None:
        """Forgets all faults that wait."""
        self._injections.clear()

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _open(self) -> int:
        self._channel = grpc.aio.insecure_channel(
            self._target,
            options=(
                ("grpc.enable_http_proxy", 0),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),
            ),
        )
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", -1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            )
        )
        self._server.add_generic_rpc_handlers((_Everything(self._serve),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def _close(self) -> None:
        for ghost in self._ghosts:
            ghost.cancel()
        await self._server.stop(0)
        await self._channel.close()

    def fault_of(self, method: str, request: bytes, answer: bytes | None = None) -> Injection | None:
        """Returns what befalls a request that came, or its answer."""
        return next((injection for injection in self._injections if injection.takes(method, request, answer)), None)

    async def _serve(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Relays one call, message by message."""
        relay = _Relay(self, method, context)
        reader = asyncio.create_task(relay.read(requests))
        try:
            while True:
                answer = await relay.answers.get()
                if isinstance(answer, bytes):
                    yield answer
                    continue
                if answer is not None:
                    await context.abort(answer.code, answer.details, answer.metadata)
                return
        finally:
            reader.cancel()
            relay.caller_left()

    def haunt(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Has something go on when its caller is gone."""
        ghost = asyncio.create_task(work)
        self._ghosts.add(ghost)
        ghost.add_done_callback(self._ghosts.discard)
        return ghost

    def upstream(self, method: str, metadata: Any, seconds: float | None) -> Any:
        """Opens a call to the server."""
        return self._channel.stream_stream(method)(metadata=metadata, timeout=seconds)

    def answered(self, method: str) -> asyncio.Event:
        """Returns the event that the next answer to `method` sets."""
        return self._answered.setdefault(method, asyncio.Event())

    def note_answer(self, method: str) -> None:
        """Tells those that wait for an answer to `method`."""
        self._answered.pop(method, asyncio.Event()).set()


@dataclass(frozen=True, slots=True)
class _Status:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[Any, ...] = ()


class _Relay:
    """One call of a client, and the calls to the server that come of it."""

    def __init__(self, proxy: GrpcProxy, method: str, context: Any) -> None:
        self._proxy, self._method = proxy, method
        self._metadata = tuple(
            (key, value)
            for key, value in context.invocation_metadata() or ()
            if key != "user-agent" and not key.startswith(("grpc-", ":"))
        )
        self._seconds = context.time_remaining()
        self.answers: asyncio.Queue[bytes | _Status | None] = asyncio.Queue()
        self._call: Any = None
        self._receiver: asyncio.Task[None] | None = None
        self._unanswered: deque[bytes] = deque()
        self._silent = False
        self._twin: asyncio.Task[None] | None = None

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Takes the client's messages, then its half-close."""
        async for message in requests:
            self._proxy.calls[self._method.rpartition("/")[2]] += 1
            injection = self._proxy.fault_of(self._method, message)
            if not self._silent and not await self._relay(message, injection):
                return
        if self._call is not None and not self._silent:
            await self._call.done_writing()

    async def _relay(self, message: bytes, injection: Injection | None) -> bool:
        """Sends a message on as its fault has it. False when the call is over."""
        fault = injection.fault if injection else None
        if injection and fault is Fault.ANSWERED:
            self.answers.put_nowait(_Status(injection.status, "the proxy says so"))
            return False
        if injection and fault in (Fault.DELAYED, Fault.OVERTAKEN):
            self._silent = True  # what comes behind it is as late
            self._proxy.haunt(self._late(message, injection))
            return True
        self._unanswered.append(message)
        await self._send(message)
        if fault is Fault.DUPLICATED:
            await self._again(message)
        return True

    async def _send(self, message: bytes) -> None:
        if self._call is None:
            self._call = self._proxy.upstream(self._method, self._metadata, self._seconds)
            self._receiver = asyncio.ensure_future(self._receive(self._call))
        self._proxy.delivered[self._method.rpartition("/")[2]] += 1
        await self._call.write(message)

    async def _again(self, message: bytes) -> None:
        """Sends the message once more: on the stream, or, where only one message is allowed, by a call of its own."""
        if self._method.rpartition("/")[2].startswith("Stream"):
            await self._send(message)
        else:
            self._twin = self._proxy.haunt(self._alone(message, 0.0))

    async def _alone(self, message: bytes, seconds: float) -> None:
        """Delivers a message by a call that nobody waits for."""
        await asyncio.sleep(seconds)
        call = self._proxy.upstream(self._method, self._metadata, UPSTREAM_SECONDS)
        self._proxy.delivered[self._method.rpartition("/")[2]] += 1
        try:
            await call.write(message)
            await call.done_writing()
            async for answer in call:
                del answer
        except grpc.RpcError:
            pass  # the server's answer to a ghost is nobody's

    async def _late(self, message: bytes, injection: Injection) -> None:
        """Delivers a message when its time has come; its answer comes too, if somebody still waits for it."""
        if injection.fault is Fault.OVERTAKEN:
            await self._proxy.answered(self._method).wait()
            await self._alone(message, 0.0)
            return
        await asyncio.sleep(injection.seconds)
        call = self._proxy.upstream(self._method, self._metadata, UPSTREAM_SECONDS)
        self._proxy.delivered[self._method.rpartition("/")[2]] += 1
        try:
            await call.write(message)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # it has ended already; how, is what `_receive` says
        await self._receive(call)

    async def _receive(self, call: Any) -> None:
        request = b""
        try:
            async for answer in call:
                self._proxy.note_answer(self._method)
                request = self._unanswered.popleft() if self._unanswered else request
                injection = self._proxy.fault_of(self._method, request, answer)
                fault = injection.fault if injection else None
                if fault is Fault.EATEN:
                    self.answers.put_nowait(_Status(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer"))
                    return
                if fault is Fault.HELD:
                    self._silent = True
                    return
                if self._twin is not None:
                    await asyncio.wait((self._twin,), timeout=TWIN_SECONDS)
                self.answers.put_nowait(answer)
                if injection is not None and fault is Fault.ECHOED:
                    self._proxy.haunt(self._alone(request, injection.seconds))
        except grpc.RpcError as error:
            self.answers.put_nowait(
                _Status(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            )
        else:
            self.answers.put_nowait(None)

    def caller_left(self) -> None:
        """The client has its answer, gave up or is gone."""
        if self._call is not None and self._receiver is not None and not self._receiver.done():
            self._call.cancel()


class _Everything(grpc.GenericRpcHandler):
    """Handles every method, as a stream of bytes both ways: on the wire, a unary call is one of those too."""

    def __init__(self, serve: Callable[[str, AsyncIterator[bytes], Any], AsyncIterator[bytes]]) -> None:
        self._serve = serve

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a method."""
        method = handler_call_details.method

        async def relay(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for answer in self._serve(method, requests, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(relay)
