"""Start codes: exchanged once for the run token, by one request however often it comes; bound to (run, epoch)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.contract.store.helpers import SECOND, SQLITE_IS_QUICK, TOKEN, Bench

from heliograph.exceptions import IllegalTransitionError, LeaseLostError, NotFoundError, PermissionDeniedError
from heliograph_control_plane.store import start_codes
from heliograph_control_plane.store.records import FlowRun
from heliograph_control_plane.store.start_codes import NewStartCode

CODE, OURS, THEIRS, NEW_TOKEN = b"c" * 32, b"o" * 32, b"x" * 32, b"n" * 32


def code(run: FlowRun, **changes: object) -> NewStartCode:
    """A code of a run, good for a minute."""
    made = NewStartCode("a", run.run_id, run.epoch, CODE, b"sealed", 60 * SECOND)
    return replace(made, **changes)  # type: ignore[arg-type]


def good(bench: Bench, run: FlowRun, secret_hash: bytes = CODE) -> bool:
    """True when the run's code is good now."""
    return bench.store.authenticate_start_code(run.run_id, run.epoch, secret_hash).result() is not None


def exchange(bench: Bench, run: FlowRun, request: bytes = OURS, token: bytes = NEW_TOKEN) -> bytes:
    """Exchanges the run's code."""
    return bench.store.exchange_start_code(run.run_id, run.epoch, request, token).result()


def test_a_code_is_exchanged_for_a_token_that_replaces_the_agents(bench: Bench) -> None:
    run = bench.submitted()
    assert bench.store.put_start_code(code(run)).result() == bench.clock.now + 60 * SECOND
    found = bench.store.authenticate_start_code(run.run_id, run.epoch, CODE).result()
    assert found is not None
    assert (found[0].project, found[0].epoch, found[0].ended) == ("p", run.epoch, False)
    assert not good(bench, run, b"wrong")
    assert bench.store.authenticate_start_code(run.run_id, 1 << 63, CODE).result() is None
    assert exchange(bench, run) == b"sealed"
    assert bench.store.authenticate_run(run.run_id, run.epoch, TOKEN).result() is None
    assert bench.store.authenticate_run(run.run_id, run.epoch, NEW_TOKEN).result() is not None


def exchanged_once(bench: Bench) -> None:
    """An answer that was lost is given again to its request, and to no other; in the end to nobody."""
    run = bench.submitted()
    bench.store.put_start_code(code(run)).result()
    assert exchange(bench, run) == exchange(bench, run)
    with pytest.raises(PermissionDeniedError):
        exchange(bench, run, THEIRS, b"t" * 32)
    assert bench.store.authenticate_run(run.run_id, run.epoch, NEW_TOKEN).result() is not None
    bench.store.reap().result()  # after the note of its first use
    with pytest.raises(PermissionDeniedError):
        exchange(bench, run)
    with pytest.raises(IllegalTransitionError):
        bench.store.put_start_code(code(run)).result()


def test_a_code_is_exchanged_once(bench: Bench) -> None:
    exchanged_once(bench)


@SQLITE_IS_QUICK
@pytest.mark.parametrize("planted", ["anybody may exchange it", "a used token is replaced"])
def test_a_code_that_is_exchanged_twice_is_found(bench: Bench, planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if planted == "anybody may exchange it":
        monkeypatch.setattr(start_codes.hmac, "compare_digest", lambda *_: True)
    else:
        monkeypatch.setattr(start_codes, "_is_used", lambda *_: False)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        exchanged_once(bench)


def test_an_acceptance_that_comes_late_does_not_replace_an_exchanged_token(bench: Bench) -> None:
    run = bench.submitted()
    bench.store.put_start_code(code(run)).result()
    bench.accept("a", run.run_id, run.epoch)  # not exchanged yet
    exchange(bench, run)
    with pytest.raises(IllegalTransitionError):
        bench.accept("a", run.run_id, run.epoch, b"late")
    assert bench.store.authenticate_run(run.run_id, run.epoch, NEW_TOKEN).result() is not None


def test_a_code_may_be_replaced_until_it_is_exchanged(bench: Bench) -> None:
    run = bench.submitted()
    bench.store.put_start_code(code(run)).result()
    bench.store.put_start_code(code(run, secret_hash=b"d" * 32, sealed=b"again")).result()
    assert not good(bench, run)
    assert good(bench, run, b"d" * 32)
    assert exchange(bench, run) == b"again"
    with pytest.raises(IllegalTransitionError):
        bench.store.put_start_code(code(run)).result()


def test_a_code_ends_with_its_time_and_with_its_lease(bench: Bench) -> None:
    run = bench.submitted()
    bench.store.put_start_code(code(run)).result()
    bench.clock.advance(59)
    assert good(bench, run)
    bench.clock.advance(1)
    assert not good(bench, run)
    bench.store.put_start_code(code(run)).result()
    bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result()
    for _ in range(2):  # waiting, then leased anew
        found = bench.store.authenticate_start_code(run.run_id, run.epoch, CODE).result()
        assert found is None or found[0].ended or bench.get(run).epoch == run.epoch
        with pytest.raises(LeaseLostError):
            exchange(bench, run)
        bench.lease()
    assert bench.store.authenticate_run(run.run_id, run.epoch, NEW_TOKEN).result() is None


def test_only_who_holds_the_lease_has_codes_made(bench: Bench) -> None:
    run = bench.submitted()
    bench.agent("b")
    for changes in ({"agent": "b"}, {"epoch": run.epoch + 1}):
        with pytest.raises(LeaseLostError):
            bench.store.put_start_code(code(run, **changes)).result()
    for strange in ({"project": "q"}, {"scope": frozenset({"q"})}, {"run_id": "nothing"}):
        with pytest.raises(NotFoundError):
            bench.store.put_start_code(code(run, **strange)).result()
    offered = bench.create()
    (lease,) = bench.lease()
    with pytest.raises(LeaseLostError):
        bench.store.put_start_code(code(offered, epoch=lease.epoch)).result()


def test_a_restored_store_and_time_end_all_codes(bench: Bench) -> None:
    run, other = bench.submitted(), bench.submitted()
    bench.store.put_start_code(code(run)).result()
    bench.store.mark_restored().result()
    assert not good(bench, run)
    bench.store.put_start_code(code(other)).result()
    bench.clock.advance(59)
    assert bench.store.prune().result() == 0
    bench.clock.advance(700)
    assert bench.store.prune().result() == 1
