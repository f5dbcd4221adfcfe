"""What storages do that are reached over HTTP when the network is slow, breaks off, or leads nowhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.storages.ground import Ground
from tests.support.fault_proxy import DOWN, FaultProxy, Wire

from heliograph.exceptions import BundleChangedError, HeliographError

FILES = {"data.txt": "".join(f"{number:07d}\n" for number in range(100_000))}
WAIT_SECONDS = 60.0


def _until(true: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < limit, what
        time.sleep(0.005)


def test_a_slow_wire_is_only_slow(wired: Ground) -> None:
    with FaultProxy(wired.port()) as proxy:
        proxy.wire = Wire(latency_seconds=0.005, jitter_seconds=0.005, slice_bytes=1460)
        with wired.via(proxy.port):
            ref = wired.register(wired.flow(files=FILES))
            folder = wired.check(ref)
    assert (folder / "data.txt").read_text() == FILES["data.txt"]
    assert proxy.accepted


def test_a_connection_that_breaks_before_the_answer_is_made_again(wired: Ground) -> None:
    flow = wired.flow(files=FILES)
    # The pool is around the proxy: what it has under way ends with the proxy.
    with ThreadPoolExecutor(1) as pool, FaultProxy(wired.port()) as proxy, wired.via(proxy.port):
        proxy.hold(DOWN)
        registering = pool.submit(wired.register, flow)
        _until(lambda: proxy.reset() > 0, "nobody connects")
        proxy.release()
        ref = registering.result(WAIT_SECONDS)
        assert wired.run(ref) == "one"


def test_a_connection_that_breaks_in_the_middle_of_the_bundle_is_made_again(
    wired: Ground, figure: Callable[[str], None]
) -> None:
    flow = wired.flow(files=FILES)
    # The pool is around the proxy: what it has under way ends with the proxy.
    with ThreadPoolExecutor(1) as pool, FaultProxy(wired.port()) as proxy, wired.via(proxy.port):
        ref = wired.register(flow)
        passed = threading.Event()
        breaks = 0

        def watch(size: int) -> None:
            if size > 300_000:
                passed.set()

        proxy.watch(DOWN, watch)
        proxy.wire = Wire(slice_bytes=16_384)
        fetching = pool.submit(wired.check, ref)
        assert passed.wait(WAIT_SECONDS), "nothing came"
        breaks += proxy.reset()
        folder = fetching.result(WAIT_SECONDS)
        assert (folder / "data.txt").read_text() == FILES["data.txt"]
        assert breaks
    figure(f"{wired.kind}: {breaks} connections broken in the middle of a bundle; it was fetched whole")


def test_a_server_that_is_away_is_said_and_is_no_damage(wired: Ground) -> None:
    flow = wired.flow()
    with FaultProxy(wired.port()) as proxy, wired.via(proxy.port):
        ref = wired.register(flow)
        proxy.refuse()
        proxy.reset()
        error = wired.refused(ref, cache="away")
        assert not isinstance(error, BundleChangedError)
        assert error.hint
        with pytest.raises(HeliographError) as caught:
            wired.register(wired.flow("two") if wired.holds else flow)
        assert caught.value.hint
        for secret in wired.secrets:
            assert secret not in f"{error} {error.hint} {caught.value} {caught.value.hint}"
        proxy.accept()
        assert wired.run(ref) == "one"
