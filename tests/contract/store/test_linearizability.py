"""Claims, leases and events of concurrent clients look as if they had come one after another: checked run by run."""

from __future__ import annotations

import pytest
from tests.contract.store import variants
from tests.contract.store.helpers import SQLITE_IS_QUICK, Bench, Clock
from tests.contract.store.histories import StoreTarget, record
from tests.support.figures import Figure
from tests.support.forms import forms

from heliograph_control_plane.store import SqlStore, events, open_store


def histories(bench: Bench, count: int, clients: int, calls: int) -> tuple[int, list[str]]:
    """Records histories until one cannot have happened; returns how many calls were made, and what is wrong."""
    stores = [bench.store]
    if bench.store.kind == "postgresql":
        stores.append(bench.opener(bench.url, clock=bench.clock))  # two control planes over one database
    made = 0
    try:
        for seed in range(count):
            history = record(StoreTarget(*stores), bench.agent, seed, clients, calls, clock=bench.clock)
            made += len(history.calls)
            if found := history.violations():
                return made, found
    finally:
        for other in stores[1:]:
            other.close()
    return made, []


@forms("count,on_postgresql,clients,calls", quick=(25, 6, 8, 200), full=(500, 500, 16, 2_000), seconds=20_000)
def test_histories_of_concurrent_clients_are_linearizable(
    bench: Bench, count: int, on_postgresql: int, clients: int, calls: int, figure: Figure
) -> None:
    # There every call waits for statements in another process, and few of them share a commit.
    count = on_postgresql if bench.store.kind == "postgresql" else count
    made, found = histories(bench, count, clients, calls)
    assert not found, "\n".join(found)
    figure(f"{bench.store.kind}: {count} histories, {clients} clients, {made:,} calls: 0 violations")


STORES: dict[str, type[SqlStore]] = {
    "acknowledged before the commit": variants.AckBeforeCommitStore,
    "claim that is not atomic": variants.NonAtomicClaimStore,
    "reaper without a predicate": variants.CarelessReaperStore,
    "request id ignored": variants.ForgetfulStore,
}
RULES: dict[str, tuple[object, str, object]] = {
    "end overwritten": (events, "reported_state", variants.overwrite_the_end),
    "no epoch check": (events.domain, "accept_batch", variants.accept_any_epoch),
}


@SQLITE_IS_QUICK
@pytest.mark.parametrize("bug", sorted(STORES | RULES))
def test_each_planted_bug_is_found(url: str, bug: str, monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    if bug in RULES:
        where, name, wrong = RULES[bug]
        monkeypatch.setattr(where, name, wrong)
    bench = Bench(url, Clock(), variants.opener(STORES[bug]) if bug in STORES else open_store)
    try:
        made, found = histories(bench, 50, 8, 200)
    finally:
        bench.close()
    assert found, f"{bug}: not found in {made:,} calls"
    figure(f"{bench.store.kind}: {bug}: found after {made:,} calls")
