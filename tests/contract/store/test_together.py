"""Calls that share statements: batches of creations that are made wholly or not at all, claims of several agents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.contract.store.helpers import SECOND, TOKEN, Bench, new_run, version

from heliograph.exceptions import AlreadyExistsError, NotFoundError, RequestIdReusedError
from heliograph_control_plane.store import SqlStore, open_store
from heliograph_control_plane.store.records import Changes, NewFlowRun, RequestKey


def intent(name: str, content: bytes = b"") -> RequestKey:
    """A request of one caller."""
    return RequestKey("CreateFlowRun/ann", name, content)


def batch(*names: str, prefix: str = "r-") -> list[tuple[NewFlowRun, RequestKey | None]]:
    """Creations, each with a request of its own."""
    return [(new_run(name), intent(prefix + name)) for name in names]


@contextmanager
def one_commit(store: SqlStore) -> Iterator[None]:
    """What is called inside waits, and then shares a transaction."""
    gate = threading.Event()
    store._write(lambda _tx: gate.wait(30))
    try:
        yield
    finally:
        gate.set()


def test_a_batch_makes_all_its_runs_in_order(bench: Bench) -> None:
    heard: list[Changes] = []
    bench.store.subscribe(heard.append)
    names = [f"run-{number}" for number in range(130)]
    runs = bench.store.create_flow_runs(batch(*names)).result()
    assert [run.run_id for run in runs] == names
    assert list(bench.store.get_flow_runs(names).result()) == runs
    assert {tuple(bench.history(run)) for run in runs} == {("SCHEDULED",)}
    assert {run_id for changes in heard for run_id in changes.runs} >= set(names)


@pytest.mark.parametrize("bad", ["flow", "run", "request"])
def test_a_batch_with_one_refusal_makes_nothing(bench: Bench, bad: str) -> None:
    bench.store.create_flow_run(new_run("there"), intent("there")).result()
    heard: list[Changes] = []
    bench.store.subscribe(heard.append)
    creations = batch("one", "two", "three")
    error: type[Exception]
    if bad == "flow":
        creations[1], error = (replace(new_run("two"), flow="no such"), intent("r-two")), NotFoundError
    elif bad == "run":
        creations[1], error = (new_run("there"), intent("r-two")), AlreadyExistsError
    else:
        creations[1], error = (new_run("two"), intent("there", b"other")), RequestIdReusedError
    with one_commit(bench.store):
        beside = bench.store.create_flow_run(new_run("beside"), intent("beside"))
        refused = bench.store.create_flow_runs(creations)
    with pytest.raises(error):
        refused.result()
    assert beside.result().run_id == "beside"
    names = ["there", "beside", "one", "two", "three"]
    assert [run.run_id for run in bench.store.get_flow_runs(names).result()] == names[:2]
    assert {run_id for changes in heard for run_id in changes.runs} == {"beside"}
    # Nothing of it is remembered either: the same requests make their runs now.
    assert [run.run_id for run in bench.store.create_flow_runs(batch("one", "three")).result()] == ["one", "three"]


def test_a_batch_that_comes_again_makes_nothing_more(bench: Bench) -> None:
    first = bench.store.create_flow_runs(batch("one", "two")).result()
    again = [(new_run(f"{name}-again"), key) for (_, key), name in zip(batch("one", "two"), "ab", strict=True)]
    more = bench.store.create_flow_runs([*again, *batch("three")]).result()
    assert [run.run_id for run in more] == ["one", "two", "three"]
    assert more[:2] == first
    alone = bench.store.create_flow_run(new_run("alone"), intent("r-one")).result()
    assert alone.run_id == "one"


def test_one_request_twice_in_a_batch_makes_one_run(bench: Bench) -> None:
    runs = bench.store.create_flow_runs([(new_run("one"), intent("r")), (new_run("two"), intent("r"))]).result()
    assert [run.run_id for run in runs] == ["one", "one"]
    assert not bench.store.get_flow_runs(["two"]).result()


def test_claims_of_one_commit_share_the_queue_without_overlap(bench: Bench) -> None:
    bench.agent("b")
    for number in range(7):
        bench.create(run_id=f"run-{number}")
        bench.clock.advance(1)
    with one_commit(bench.store):
        claims = [bench.store.lease_flow_runs(agent, f"q{n}", 3) for n, agent in enumerate(("a", "b", "a"))]
    leases = [claim.result() for claim in claims]
    assert [len(given) for given in leases] == [3, 3, 1]
    assert sorted(one.flow_run.run_id for given in leases for one in given) == [f"run-{n}" for n in range(7)]
    for agent, given in zip(("a", "b", "a"), leases, strict=True):
        assert {one.flow_run.agent for one in given} == {agent}
        assert [one.flow_run.run_id for one in given] == sorted(one.flow_run.run_id for one in given)
        for one in given:
            bench.store.accept_flow_run(agent, one.flow_run.run_id, one.epoch, TOKEN).result()


def test_claims_of_one_commit_get_only_what_their_agents_fit(bench: Bench) -> None:
    bench.store.register_flow_version(version("gpu", labels=("gpu",))).result()
    bench.agent("b", ["gpu"])
    plain, special = bench.create(), bench.create(flow="gpu")
    with one_commit(bench.store):
        mine, theirs = bench.store.lease_flow_runs("a", "q1", 5), bench.store.lease_flow_runs("b", "q2", 5)
        nobody = bench.store.lease_flow_runs("no such", "q3", 5)
    assert [one.flow_run.run_id for one in mine.result()] == [plain.run_id]
    assert [one.flow_run.run_id for one in theirs.result()] == [special.run_id]
    with pytest.raises(NotFoundError):
        nobody.result()


def test_a_claim_that_comes_twice_into_one_commit_is_given_once(bench: Bench) -> None:
    for _ in range(4):
        bench.create()
    with one_commit(bench.store):
        first, again = (bench.store.lease_flow_runs("a", "same", 2) for _ in range(2))
        other = bench.store.lease_flow_runs("a", "other", 2)
    assert [one.epoch for one in first.result()] == [one.epoch for one in again.result()]
    assert [one.flow_run.run_id for one in first.result()] == [one.flow_run.run_id for one in again.result()]
    assert {one.flow_run.run_id for one in other.result()}.isdisjoint(one.flow_run.run_id for one in first.result())


def test_one_intent_told_to_two_control_planes_at_once_makes_one_run(bench: Bench) -> None:
    stores = [bench.store, bench.store]
    if bench.store.kind == "postgresql":
        stores[1] = open_store(bench.url, clock=bench.clock)  # one process holds a SQLite file
    try:
        for number in range(20):
            calls = [
                store.create_flow_run(new_run(f"{number}-{which}"), intent(f"r{number}"))
                for which, store in enumerate(stores)
            ]
            assert len({call.result(60).run_id for call in calls}) == 1
    finally:
        if stores[1] is not bench.store:
            stores[1].close()


def test_an_agent_that_changed_is_seen_by_the_next_claim(bench: Bench) -> None:
    bench.create(labels=("big",))
    assert not bench.lease()
    bench.agent("a", ["big"])
    bench.clock.advance(1 / SECOND)
    assert len(bench.lease()) == 1
