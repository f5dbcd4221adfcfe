"""The fault proxies themselves: each fault really happens on the wire, and nothing happens without one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.support.fault_proxy import DOWN, UP, FaultProxy, LoopThread
from tests.support.grpc_proxy import Fault, GrpcProxy
from tests.support.stack import wait_until

SAY, CHAT = "/test.Echo/Say", "/test.Echo/StreamChat"


# --- bytes ------------------------------------------------------------------------------------------------------------


class Echo:
    """A TCP server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                while data := connection.recv(65536):
                    self.heard += data
                    connection.sendall(data)
        except OSError:
            pass  # reset, as the test wants it

    def close(self) -> None:
        """Stops listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server of bytes."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def wire(echo: Echo) -> Iterator[FaultProxy]:
    """A proxy in front of it."""
    with FaultProxy(echo.port) as proxy:
        yield proxy


@contextmanager
def connected(proxy: FaultProxy, seconds: float = 10.0) -> Iterator[socket.socket]:
    """A client's connection."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=seconds) as client:
        yield client


def receive(client: socket.socket, size: int) -> bytes:
    """Receives exactly `size` bytes, or what comes before the end."""
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def silent(client: socket.socket) -> bool:
    """True when nothing comes for a moment."""
    client.settimeout(0.3)
    try:
        return client.recv(1) is None
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)


def test_bytes_pass_whole_and_ends_are_told(wire: FaultProxy) -> None:
    """Without a fault the proxy is not noticed."""
    data = bytes(range(256)) * 4000
    with connected(wire) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        assert receive(client, len(data)) == data
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize(("slice_bytes", "latency", "bandwidth"), [(3, 0.0, 0), (0, 0.2, 0), (0, 0.0, 20_000)])
def test_a_slow_wire_delays_and_keeps_every_byte(
    wire: FaultProxy, slice_bytes: int, latency: float, bandwidth: int
) -> None:
    """Slicing, latency with jitter, bandwidth: later, in order, complete."""
    wire.wire.slice_bytes, wire.wire.latency_seconds, wire.wire.bytes_per_second = slice_bytes, latency, bandwidth
    wire.wire.jitter_seconds = latency / 2
    data = bytes(range(250)) * 16
    with connected(wire) as client:
        started = time.monotonic()
        client.sendall(data)
        data += data[:1000]
        client.sendall(data[:1000])
        assert receive(client, len(data)) == data
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        took = time.monotonic() - started
        assert took >= 2 * latency
        assert took >= (len(data) / bandwidth if bandwidth else 0)


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_held_direction_passes_nothing_until_released_and_then_all(
    wire: FaultProxy, echo: Echo, direction: str
) -> None:
    """One way is cut, the other is not; old and new connections wait, nobody is told."""
    with connected(wire) as client:
        client.sendall(b"before")
        assert receive(client, 6) == b"before"
        wire.hold(direction)
        client.sendall(b"during")
        with connected(wire) as newcomer:
            newcomer.sendall(b"-new-")
            assert silent(client)
            assert silent(newcomer)
            reached = bytes(echo.heard)
            assert (b"during" in reached and b"-new-" in reached) == (direction == DOWN)
            wire.release()
            assert receive(client, 6) == b"during"
            assert receive(newcomer, 5) == b"-new-"


def test_a_forgotten_connection_is_dead_and_does_not_know(wire: FaultProxy, echo: Echo) -> None:
    """It can be written to, nothing comes, no end either; a new one works."""
    with connected(wire) as client, connected(wire) as newcomer:
        client.sendall(b"before")
        assert receive(client, 6) == b"before"
        wait_until(lambda: wire.accepted == 2, "both are connected")
        assert wire.forget() == 2
        client.sendall(b"lost")
        assert silent(client)
        assert silent(newcomer)
        assert b"lost" not in echo.heard
        with connected(wire) as other:
            other.sendall(b"after")
            assert receive(other, 5) == b"after"


def test_connections_are_reset_and_refused(wire: FaultProxy) -> None:
    """A reset is a reset, not an end; while nothing listens a newcomer is refused, then taken again."""
    with connected(wire) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        wire.refuse()
        assert wire.reset() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError), connected(wire):
        pass
    wire.accept()
    with connected(wire) as client:
        client.sendall(b"y")
        assert receive(client, 1) == b"y"


# --- calls ------------------------------------------------------------------------------------------------------------


class EchoService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers each message with the number of messages it has had; remembers them."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a method."""

        def answer(message: bytes) -> bytes:
            self.heard.append(message)
            return message + b"=%d" % len(self.heard)

        async def say(message: bytes, context: Any) -> bytes:
            if message == b"fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "not here", (("why-bin", b"\x00\x01"),))
            return answer(message)

        async def chat(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for message in messages:
                yield answer(message)

        if handler_call_details.method == SAY:
            return grpc.unary_unary_rpc_method_handler(say)
        return grpc.stream_stream_rpc_method_handler(chat)


@pytest.fixture
def service() -> Iterator[tuple[EchoService, GrpcProxy, grpc.Channel]]:
    """A gRPC server, the proxy in front of it, a client's channel to the proxy."""
    thread, handler = LoopThread("echo-service"), EchoService()

    async def open_server() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = thread.run(open_server())
    with GrpcProxy(f"127.0.0.1:{port}") as proxy, grpc.insecure_channel(proxy.address) as channel:
        yield handler, proxy, channel
    thread.run(server.stop(0))
    thread.end()


Service = tuple[EchoService, GrpcProxy, grpc.Channel]


def say(channel: grpc.Channel, message: bytes, seconds: float = 10.0) -> bytes:
    """One unary call."""
    answer: bytes = channel.unary_unary(SAY)(message, timeout=seconds)
    return answer


def test_calls_pass_with_status_details_and_metadata(service: Service) -> None:
    """Without a fault the proxy is not noticed, errors included."""
    _, _, channel = service
    assert say(channel, b"a") == b"a=1"
    assert list(channel.stream_stream(CHAT)(iter([b"b", b"c"]), timeout=60)) == [b"b=2", b"c=3"]
    with pytest.raises(grpc.RpcError) as raised:
        say(channel, b"fail")
    error: Any = raised.value
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "not here")
    assert ("why-bin", b"\x00\x01") in [(key, value) for key, value in error.trailing_metadata()]


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.EATEN, grpc.StatusCode.UNAVAILABLE), (Fault.HELD, grpc.StatusCode.DEADLINE_EXCEEDED)],
)
def test_an_answer_is_eaten_after_the_server_acted(service: Service, fault: Fault, code: grpc.StatusCode) -> None:
    """The server has the request, the caller has an error, the next call is unharmed."""
    handler, proxy, channel = service
    injection = proxy.inject("Say", fault)
    with pytest.raises(grpc.RpcError) as raised:
        say(channel, b"a", 1.0)
    assert raised.value.code() is code
    assert handler.heard == [b"a"]
    assert injection.happened.is_set()
    assert say(channel, b"b") == b"b=2"


def test_a_request_arrives_twice(service: Service) -> None:
    """At once, or some time after the answer."""
    handler, proxy, channel = service
    proxy.inject("Say", Fault.DUPLICATED)
    assert say(channel, b"a").startswith(b"a=")
    assert handler.heard == [b"a", b"a"]
    proxy.inject("Say", Fault.ECHOED, seconds=0.2)
    assert say(channel, b"b") == b"b=3"
    wait_until(lambda: handler.heard == [b"a", b"a", b"b", b"b"], "the echo arrives")
    assert proxy.calls["Say"] == 2
    assert proxy.delivered["Say"] == 4


def test_a_request_arrives_late_though_its_caller_left(service: Service) -> None:
    """Within the deadline the answer still comes; beyond it the request acts all the same."""
    handler, proxy, channel = service
    proxy.inject("Say", Fault.DELAYED, seconds=0.3)
    assert say(channel, b"a") == b"a=1"
    proxy.inject("Say", Fault.DELAYED, seconds=1.0)
    with pytest.raises(grpc.RpcError) as raised:
        say(channel, b"b", 0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert handler.heard == [b"a"]
    wait_until(lambda: handler.heard == [b"a", b"b"], "it arrives late")


def test_a_request_is_overtaken_by_the_next(service: Service) -> None:
    """The second call is answered before the first reaches the server."""
    handler, proxy, channel = service
    proxy.inject("Say", Fault.OVERTAKEN)
    with pytest.raises(grpc.RpcError):
        say(channel, b"first", 0.3)
    assert say(channel, b"second") == b"second=1"
    wait_until(lambda: handler.heard == [b"second", b"first"], "they arrive in the wrong order")


def test_the_proxy_answers_for_the_server(service: Service) -> None:
    """The server hears nothing."""
    handler, proxy, channel = service
    proxy.inject("Say", Fault.ANSWERED, status=grpc.StatusCode.UNIMPLEMENTED, times=2)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as raised:
            say(channel, b"a")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert handler.heard == []
    assert say(channel, b"a") == b"a=1"


def test_faults_befall_single_messages_of_a_stream(service: Service) -> None:
    """The second message is duplicated; of another stream the answer to the second is eaten, and the stream ends."""
    handler, proxy, channel = service
    proxy.inject("StreamChat", Fault.DUPLICATED, skip=1)
    assert list(channel.stream_stream(CHAT)(iter([b"a", b"b"]), timeout=60)) == [b"a=1", b"b=2", b"b=3"]
    proxy.inject("StreamChat", Fault.EATEN, only=lambda message: message == b"d")
    call = channel.stream_stream(CHAT)(iter([b"c", b"d"]), timeout=10)
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert handler.heard == [b"a", b"b", b"b", b"c", b"d"]


def test_a_message_of_a_stream_arrives_after_those_of_the_next_stream(service: Service) -> None:
    """What a broken stream carried comes when the stream after it was answered."""
    handler, proxy, channel = service
    proxy.inject("StreamChat", Fault.OVERTAKEN)
    with pytest.raises(grpc.RpcError):
        list(channel.stream_stream(CHAT)(iter([b"old"]), timeout=0.5))
    assert list(channel.stream_stream(CHAT)(iter([b"new"]), timeout=60)) == [b"new=1"]
    wait_until(lambda: handler.heard == [b"new", b"old"], "the old one arrives")


def test_the_server_is_away_behind_the_proxy(service: Service) -> None:
    """A proxy whose server is away says UNAVAILABLE, as balancers do."""
    del service
    with GrpcProxy("127.0.0.1:1") as proxy, grpc.insecure_channel(proxy.address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            say(channel, b"a")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
