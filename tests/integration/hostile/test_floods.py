"""Clients that break the rules of the wire: an honest one is served meanwhile, and what they took is given back.

The server is a process of its own, so that its memory and its files can be counted.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tests.support.control_plane import ControlPlaneProcess, channel, control_plane, control_plane_process
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Attacker,
    call_headers,
    frame,
    header,
    indexed,
    message,
    wait_until_closed,
)
from tests.support.scene import Scene

from heliograph.api.v1 import admin_service_pb2 as admin_pb
from heliograph_control_plane import limits

WHO_AM_I = "/heliograph.api.v1.AdminService/WhoAmI"
CREATE = "/heliograph.api.v1.ProjectService/CreateProject"
CALM = 11
"""Error code ENHANCE_YOUR_CALM."""
STREAMS = 10_000
MAX_STREAMS = 1_000
OK, INVALID, EXHAUSTED = (grpc.StatusCode[name].value[0] for name in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"))
PEAK_BYTES = 50 * 1024 * 1024
"""One flood may take this much more than the server had before, at its highest."""
GROWTH_BYTES = 120 * 1024 * 1024
"""The first round of all floods may leave this much: buffers that the server keeps for the next one."""
AGAIN_BYTES = 50 * 1024 * 1024
"""Further rounds may add this much, however many there are."""

Attack = Callable[[ControlPlaneProcess], str]


class Honest:
    """A client that asks all the time, on a thread of its own."""

    def __init__(self, plane: ControlPlaneProcess) -> None:
        self.answers = 0
        self.failures: list[str] = []
        self._plane = plane
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with channel(self._plane.address, self._plane.token) as made:
            call: Any = made.unary_unary(WHO_AM_I)
            while not self._stop.wait(0.01):
                try:
                    call(b"", timeout=30)
                    self.answers += 1
                except grpc.RpcError as error:
                    self.failures.append(str(error.code()))

    def asked_again(self) -> int:
        """Waits for one more answer; returns their number."""
        before, deadline = self.answers, time.monotonic() + 60
        while self.answers == before:
            assert not self.failures
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return self.answers

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def refusals(one: Attacker, wanted: dict[int, int]) -> str:
    """Returns what is wrong with the answers to calls, by their streams; nothing when each is the refusal wanted."""
    answered = {stream: one.statuses.get(stream) for stream in wanted}
    if answered == wanted and not one.received[DATA]:
        return ""
    return f"{one.received[DATA]} messages and the statuses {answered} came, not {wanted}"


class Peak:
    """The most memory that a process has had since, as the kernel counts it: no moment is missed."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = self._read("VmRSS")

    def growth(self) -> int:
        """Bytes by which the most is more than what it had at first."""
        return self._read("VmHWM") - self.before

    def _read(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB$", self._status.read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10


def judged(attack: Attack, plane: ControlPlaneProcess) -> tuple[str, int]:
    """Attacks a server; returns what it did wrong, the memory that it took included, and that memory."""
    peak = Peak(plane.pid)
    wrong, growth = attack(plane), peak.growth()
    if not wrong and growth >= PEAK_BYTES:
        wrong = f"the server took {growth >> 20} MB for it"
    return wrong, growth


# --- attacks: each returns what the server did wrong, or nothing ----------------------------------------------------


def connection(plane: ControlPlaneProcess) -> AbstractContextManager[Attacker]:
    return contextlib.closing(Attacker(plane.address))


def open_streams(plane: ControlPlaneProcess, seconds: float = 30) -> str:
    """10,000 calls with a good token on one connection, and not one message."""
    headers = call_headers(WHO_AM_I, plane.token)
    with connection(plane) as one:
        for number in range(STREAMS):
            one.send(frame(HEADERS, END_HEADERS, 2 * number + 1, headers))
        with contextlib.suppress(TimeoutError):  # the refusals may come after the answer to a ping
            one.read_until(lambda: one.errors[CALM] >= STREAMS - MAX_STREAMS - 10, seconds)
        refused = one.errors[CALM]
    return "" if refused >= STREAMS - MAX_STREAMS - 10 else f"only {refused} of {STREAMS} streams were refused"


def strangers(plane: ControlPlaneProcess) -> str:
    """10,000 calls without a token on one connection."""
    with connection(plane) as one:
        for number in range(STREAMS):
            one.send(frame(HEADERS, END_HEADERS, 2 * number + 1, call_headers(WHO_AM_I)))
        one.read_until(lambda: one.received[RST_STREAM] >= STREAMS)
        return "the connection was closed" if one.closed else ""


def rapid_reset(plane: ControlPlaneProcess) -> str:
    """10,000 calls that are taken back as soon as they are made."""
    headers = call_headers(WHO_AM_I, plane.token)
    with connection(plane) as one:
        for number in range(STREAMS):
            stream = 2 * number + 1
            one.send(frame(HEADERS, END_HEADERS, stream, headers) + frame(RST_STREAM, 0, stream, bytes([0, 0, 0, 8])))
        one.settle()
        refused = one.errors[CALM]
    # Those that were over before the next one came were never too many.
    return "" if one.closed or refused >= STREAMS // 10 else f"only {refused} calls were refused"


def pings(plane: ControlPlaneProcess) -> str:
    """50,000 pings."""
    with connection(plane) as one:
        for _ in range(100):
            if not one.send(frame(PING, 0, 0, b"12345678") * 500):
                break
        one.settle()
        return "" if one.errors[CALM] else "nobody told it to stop"


def settings(plane: ControlPlaneProcess) -> str:
    """20,000 changes of settings."""
    with connection(plane) as one:
        for _ in range(40):
            one.send(frame(SETTINGS) * 500)
        with contextlib.suppress(TimeoutError):
            one.read_until(lambda: one.received[SETTINGS] >= 20_000)
        taken = one.received[SETTINGS]
    return "" if one.closed or taken >= 20_000 else f"only {taken} changes were taken note of"


def continuations(plane: ControlPlaneProcess) -> str:
    """16 MB of headers; those who do not end them are given up, those who do are refused."""
    with connection(plane) as endless:
        endless.send(frame(HEADERS, 0, 1, call_headers(WHO_AM_I, plane.token)))
        for _ in range(1_000):
            if not endless.send(frame(CONTINUATION, 0, 1, header("x-long", "y" * 8_000) * 2)):
                return ""
        endless.send(frame(CONTINUATION, END_HEADERS, 1) + frame(DATA, END_STREAM, 1, message(b"")))
        endless.read_until(lambda: bool(endless.statuses or endless.received[RST_STREAM]))
        return refusals(endless, {1: EXHAUSTED})


def header_table(plane: ControlPlaneProcess) -> str:
    """One header of 3.5 KB, and 12,000 references to it: 42 MB in 16 KB."""
    with connection(plane) as one:
        bomb = header("x-bomb", "y" * 3_500, index=True) + indexed(62) * 12_000
        one.send(frame(HEADERS, END_HEADERS, 1, call_headers(WHO_AM_I, plane.token) + bomb))
        one.send(frame(DATA, END_STREAM, 1, message(b"")))
        one.read_until(lambda: bool(one.statuses))
        return refusals(one, {1: EXHAUSTED})


def many_headers(plane: ControlPlaneProcess) -> str:
    """3,000 headers, and one of 20 KB."""
    for extra in (
        [(f"x-{number}", "v") for number in range(3_000)],
        [("x-large", "y" * 20_000), ("x-2", "z" * 20_000)],
    ):
        with connection(plane) as one:
            block = call_headers(WHO_AM_I, plane.token, extra)
            one.send(frame(HEADERS, 0, 1, block[:16_000]))
            rest = [block[at : at + 16_000] for at in range(16_000, len(block), 16_000)]
            for number, part in enumerate(rest, 1):
                one.send(frame(CONTINUATION, END_HEADERS if number == len(rest) else 0, 1, part))
            one.send(frame(DATA, END_STREAM, 1, message(b"")))
            one.read_until(lambda: bool(one.statuses))
            if wrong := refusals(one, {1: EXHAUSTED}):
                return wrong
    return ""


def empty_frames(plane: ControlPlaneProcess) -> str:
    """50,000 empty pieces of one message, and as many changes of its window."""
    with connection(plane) as one:
        one.send(frame(HEADERS, END_HEADERS, 1, call_headers(WHO_AM_I, plane.token)))
        for _ in range(100):
            if not one.send(frame(DATA, 0, 1) * 500 + frame(WINDOW_UPDATE, 0, 0, bytes([0, 0, 0, 1])) * 500):
                break
        one.settle()
        return "" if one.closed or one.settled else "the connection neither goes on nor ends"


def lies_about_length(plane: ControlPlaneProcess) -> str:
    """Messages that say that they are 4 GB, and messages that stop in the middle."""
    with connection(plane) as one:
        for number in range(100):
            stream = 2 * number + 1
            one.send(frame(HEADERS, END_HEADERS, stream, call_headers(WHO_AM_I, plane.token)))
            claim = 2**32 - 1 if number % 2 else 1_000_000
            one.send(frame(DATA, 0, stream, message(b"x" * 100, claim=claim)))
        too_long = {2 * number + 1: EXHAUSTED for number in range(1, 100, 2)}
        with contextlib.suppress(TimeoutError):
            one.read_until(lambda: one.statuses.keys() >= too_long.keys(), 30)
        return refusals(one, too_long)


@functools.cache
def packed_nothing() -> tuple[dict[str, bytes], bytes]:
    """Returns 60 MB of nothing, packed in each way, and packed twice."""
    nothing = b"\0" * 60_000_000
    packed = {"gzip": gzip.compress(nothing), "deflate": zlib.compress(nothing)}
    return packed, gzip.compress(packed["gzip"])


def bombs(plane: ControlPlaneProcess) -> str:
    """60 MB of nothing, packed; as gzip, as deflate, with garbage behind, and packed twice."""
    packed, packed_twice = packed_nothing()
    kinds = [
        *((encoding, body, EXHAUSTED) for encoding, body in packed.items()),
        ("gzip", packed["gzip"][:-20], EXHAUSTED),
        ("gzip", packed_twice, INVALID),  # unpacked once it is small, and no message
    ] * 2
    wanted = {2 * number + 1: status for number, (_, _, status) in enumerate(kinds)}
    with connection(plane) as one:
        for stream, (encoding, body, _) in zip(wanted, kinds, strict=True):
            headers = call_headers(CREATE, plane.token, [("grpc-encoding", encoding)])
            one.send(frame(HEADERS, END_HEADERS, stream, headers))
            whole = message(body, compressed=True)
            for at in range(0, len(whole), 16_000):
                one.send(frame(DATA, 0, stream, whole[at : at + 16_000]))
            one.send(frame(DATA, END_STREAM, stream))
        with contextlib.suppress(TimeoutError):
            one.read_until(lambda: one.statuses.keys() >= wanted.keys(), 30)
        return refusals(one, wanted)


ATTACKS: dict[str, Attack] = {
    "streams without a message": open_streams,
    "strangers": strangers,
    "rapid reset": rapid_reset,
    "pings": pings,
    "settings": settings,
    "headers without an end": continuations,
    "references to a header": header_table,
    "many headers": many_headers,
    "empty frames": empty_frames,
    "lies about the length": lies_about_length,
    "bombs": bombs,
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlaneProcess]:
    with control_plane_process(tmp_path_factory.mktemp("plane")) as process:
        yield process


def files_of(process: psutil.Process) -> int:
    return int(process.num_fds())


def wait_for_files(process: psutil.Process, most: int) -> int:
    """Waits until the server has given back the files of connections."""
    deadline = time.monotonic() + 60
    while (now := files_of(process)) > most and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


@forms("rounds", quick=3, full=40)
def test_a_flood_keeps_nobody_from_an_answer(plane: ControlPlaneProcess, rounds: int, figure: Figure) -> None:
    process = psutil.Process(plane.pid)
    honest = Honest(plane)
    peaks: dict[str, int] = {}
    try:
        honest.asked_again()
        before, files = process.memory_info().rss, files_of(process)
        first = 0
        for number in range(rounds):
            for name, attack in ATTACKS.items():
                answers = honest.answers
                wrong, peak = judged(attack, plane)
                assert not wrong, f"{name}: {wrong}"
                peaks[name] = max(peaks.get(name, 0), peak)
                # Two more: one of them was asked after the attack.
                honest.asked_again()
                assert honest.asked_again() > answers
            if number == 0:
                first = process.memory_info().rss
        after = process.memory_info().rss
        assert wait_for_files(process, files + 4) <= files + 4
    finally:
        honest.stop()
    assert honest.failures == []
    assert first - before < GROWTH_BYTES
    assert after - first < AGAIN_BYTES
    figure(
        f"{rounds} rounds of {len(ATTACKS)} floods: {honest.answers} honest calls, all answered;"
        f" memory {before >> 20} to {first >> 20} to {after >> 20} MB;"
        f" most for one flood {max(peaks.values()) >> 20} MB, for bombs {peaks['bombs'] >> 20} MB"
    )


def slow_openings(plane: ControlPlaneProcess, count: int) -> list[Attacker]:
    """Connections that are silent, say a part of what HTTP/2 begins with, or leave its settings out."""
    made = [Attacker(plane.address, greet=False) for _ in range(count)]
    for number, one in enumerate(made):
        one.send((b"", PREFACE[:1], PREFACE[:9], PREFACE)[number % 4])
    return made


@forms("count", quick=200, full=2_000)
def test_connections_that_never_begin_are_closed(plane: ControlPlaneProcess, count: int, figure: Figure) -> None:
    process = psutil.Process(plane.pid)
    honest = Honest(plane)
    slow: list[Attacker] = []
    try:
        honest.asked_again()
        files = files_of(process)
        slow = slow_openings(plane, count)
        begun = [Attacker(plane.address) for _ in range(20)]
        for one in begun:
            one.send(frame(HEADERS, 0, 1, call_headers(WHO_AM_I, plane.token)[:40]))
        # One byte at a time: a connection that always says a little more is no better.
        for part in range(9, 15):
            for number, one in enumerate(slow):
                if number % 4 == 2:
                    one.send(PREFACE[part : part + 1])
            honest.asked_again()
        left = wait_until_closed(slow, 40)
        assert left == 0, f"{left} of {count} are open"
        for one in begun:
            one.close()
        assert wait_for_files(process, files + 4) <= files + 4
    finally:
        for one in slow:
            one.close()
        honest.stop()
    assert honest.failures == []
    figure(f"{count} connections that never began: all closed, {honest.answers} honest calls answered meanwhile")


def refused_at_last(call: Callable[[], object]) -> Any:
    """Calls again and again until the call is refused: the server reads what others sent when it comes to it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            call()
        except grpc.RpcError as error:
            return error
    raise AssertionError("the call was never refused")


def test_a_token_has_so_many_calls_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CALLS_PER_TOKEN", 5)
    with control_plane(tmp_path) as small, ExitStack() as stack:
        scene = Scene(stack, small)
        greedy, modest = scene.token("viewer").secret, scene.api_as("viewer")
        with channel(small.address, greedy) as made, contextlib.closing(Attacker(small.address)) as silent:
            call: Any = made.unary_unary(WHO_AM_I)
            for number in range(5):
                # A call whose message never comes counts like any other.
                silent.send(frame(HEADERS, END_HEADERS, 2 * number + 1, call_headers(WHO_AM_I, greedy)))
            caught = refused_at_last(lambda: call(b""))
            assert caught.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too many calls" in str(caught.details())
            modest.admin.WhoAmI(admin_pb.WhoAmIRequest())
            silent.close()
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(grpc.RpcError):
                    call(b"")
                    break
                assert time.monotonic() < deadline


FOUND_BY: dict[str, tuple[Attack, ...]] = {
    "no_limit_of_streams": (rapid_reset, lambda plane: open_streams(plane, seconds=5)),
    "no_limit_of_messages": (bombs, lies_about_length),
    "no_limit_of_headers": (many_headers, continuations),
    "keep_what_came": (bombs,),
}
"""A limit that is not there, and the attacks of which each must find it."""


@pytest.mark.parametrize("planted", [*FOUND_BY, pytest.param("no_patience", marks=pytest.mark.full)])
def test_a_server_without_limits_is_found(tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", planted)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "fault" / "planted"))
    with control_plane_process(tmp_path) as careless:
        for number, attack in enumerate(FOUND_BY.get(planted, ())):
            assert judged(attack, careless)[0], f"{planted}: not found by attack {number}"
        if planted != "no_patience":
            return
        slow = slow_openings(careless, 8)
        try:
            assert wait_until_closed(slow, 12) > 0
        finally:
            for one in slow:
                one.close()
