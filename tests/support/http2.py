"""HTTP/2 by hand, for clients that misbehave: frames are written as wished, and what comes back is read and counted."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from hpack import Decoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1

_LAST = b"the last"

Header = tuple[str, str]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _length(number: int, prefix_bits: int, first: int = 0) -> bytes:
    most = (1 << prefix_bits) - 1
    if number < most:
        return bytes([first | number])
    made, number = bytearray([first | most]), number - most
    while number >= 128:
        made.append(number % 128 | 128)
        number //= 128
    return bytes([*made, number])


def header(name: str, value: str, *, index: bool = False) -> bytes:
    """One header as a literal; `index` has the other side keep it in its table."""
    named, valued = name.encode(), value.encode()
    return bytes([0x40 if index else 0]) + _length(len(named), 7) + named + _length(len(valued), 7) + valued


def indexed(number: int) -> bytes:
    """A reference to a header in the table; 62 is the one that was added last."""
    return _length(number, 7, 0x80)


def call_headers(path: str, token: str = "", extra: Iterable[Header] = ()) -> bytes:
    """The header block of a gRPC call."""
    named: list[Header] = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
        ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "100S"),
    ]  # fmt: skip
    if token:
        named.append(("authorization", f"Bearer {token}"))
    return b"".join(header(name, value) for name, value in [*named, *extra])


def message(data: bytes, *, compressed: bool = False, claim: int | None = None) -> bytes:
    """The body of a gRPC message; `claim` is the length that it pretends to have."""
    return bytes([compressed]) + struct.pack(">I", len(data) if claim is None else claim) + data


class Attacker:
    """One connection whose every byte is chosen.

    Attributes:
        received: Number of frames that came, by kind.
        errors: Number of RST_STREAM and GOAWAY frames that came, by error code.
        statuses: The gRPC status of each call that ended, by the call's stream.
        closed: True when the server ended the connection.
        settled: True when the server answered the ping of `settle`.
    """

    def __init__(self, address: str, *, greet: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._buffer = b""
        self.received: Counter[int] = Counter()
        self.errors: Counter[int] = Counter()
        self.statuses: dict[int, int] = {}
        self._decoder = Decoder()
        self._block = b""
        self.closed = False
        self.settled = False
        if greet:
            self.send(PREFACE + frame(SETTINGS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes) -> bool:
        """Sends all of it while reading what comes, so that neither side waits for the other; False when closed."""
        rest = memoryview(data)
        self._socket.setblocking(False)
        while rest and not self.closed:
            readable, writable, _ = select.select([self._socket], [self._socket], [], 30)
            if not readable and not writable:
                raise TimeoutError("the server neither reads nor writes")
            if readable:
                self._take()
            if writable and not self.closed:
                try:
                    rest = rest[self._socket.send(rest[: 256 * 1024]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self.closed = True
        return not self.closed

    def settle(self, seconds: float = 60) -> None:
        """Waits until the server has read all that was sent: it answers a ping, or has closed the connection."""
        if self.send(frame(PING, 0, 0, _LAST)):
            self.read_until(lambda: self.settled, seconds)

    def read_until(self, enough: Callable[[], bool], seconds: float = 60) -> None:
        """Reads until it is enough, or the connection is closed. Raises TimeoutError when nothing comes for so long."""
        while not (self.closed or enough()):
            if not select.select([self._socket], [], [], seconds)[0]:
                raise TimeoutError("the server says nothing")
            self._take()

    def _take(self) -> None:
        try:
            got = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if not got:
            self.closed = True
            return
        self._buffer += got
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                return
            kind, flags, payload = self._buffer[3], self._buffer[4], self._buffer[9 : 9 + size]
            self.received[kind] += 1
            if kind in (HEADERS, CONTINUATION):
                self._take_headers(int.from_bytes(self._buffer[5:9]), payload, ended=bool(flags & END_HEADERS))
            self.settled = self.settled or (kind == PING and payload == _LAST)
            if kind == RST_STREAM:
                self.errors[int.from_bytes(payload[:4], "big")] += 1
            elif kind == GOAWAY:
                self.errors[int.from_bytes(payload[4:8], "big")] += 1
            self._buffer = self._buffer[9 + size :]

    def _take_headers(self, stream: int, payload: bytes, *, ended: bool) -> None:
        self._block += payload
        if ended:
            found = dict(self._decoder.decode(self._block, raw=True))
            self._block = b""
            if b"grpc-status" in found:
                self.statuses[stream] = int(found[b"grpc-status"])

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()


def wait_until_closed(attackers: Sequence[Attacker], seconds: float) -> int:
    """Waits until the server has closed all of these connections, or none closes for so long; returns the rest."""
    open_ = [one for one in attackers if not one.closed]
    while open_:
        readable, _, _ = select.select(open_, [], [], seconds)
        if not readable:
            break
        for one in readable:
            one._take()  # of this module
        open_ = [one for one in open_ if not one.closed]
    return len(open_)
