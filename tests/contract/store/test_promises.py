"""Never twice, never lost: concurrency, crashes, and the same checks against planted bugs."""

from __future__ import annotations

import pytest
from tests.contract.store import checks, variants
from tests.contract.store.helpers import SQLITE_IS_QUICK, Bench, Clock

from heliograph_control_plane.store import SqlStore, events, open_store


def variant_bench(url: str, kind: type[SqlStore]) -> Bench:
    """An open store with a planted bug."""
    return Bench(url, Clock(), variants.opener(kind))


def test_sixteen_claimers_start_a_thousand_runs_once_each(bench: Bench) -> None:
    stores = [bench.store]
    if bench.store.kind == "postgresql":
        stores.append(open_store(bench.url, clock=bench.clock))  # two control planes over one database
    try:
        checks.every_run_starts_once(bench, stores, 1_000, 16)
    finally:
        for other in stores[1:]:
            other.close()


def test_claims_that_share_a_commit_differ(bench: Bench) -> None:
    checks.claims_in_one_commit_differ(bench)


@SQLITE_IS_QUICK
def test_a_claim_that_is_not_atomic_is_found(url: str) -> None:
    bench = variant_bench(url, variants.NonAtomicClaimStore)
    try:
        with pytest.raises(AssertionError):
            checks.claims_in_one_commit_differ(bench)
    finally:
        bench.close()


def test_an_old_writer_writes_nothing(bench: Bench) -> None:
    checks.an_old_writer_writes_nothing(bench)


@SQLITE_IS_QUICK
def test_a_missing_fence_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.domain, "accept_batch", variants.accept_any_epoch)
    with pytest.raises(AssertionError):
        checks.an_old_writer_writes_nothing(bench)


def test_acknowledged_events_survive_a_kill(url: str) -> None:
    assert checks.acknowledged_events_survive_a_kill(url) > 100


def test_an_acknowledgement_before_the_commit_is_found(url: str) -> None:
    with pytest.raises(AssertionError):
        checks.acknowledged_events_survive_a_kill(url, "ack before commit")
