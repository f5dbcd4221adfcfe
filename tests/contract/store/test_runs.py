"""Runs as people see them: created once per intent, listed, cancelled."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from tests.contract.store.helpers import SECOND, TOKEN, Bench, flow, new_run, version

from heliograph.engine.codes import StateCode
from heliograph.exceptions import (
    AlreadyExistsError,
    IllegalTransitionError,
    InvalidArgumentError,
    LeaseLostError,
    NotFoundError,
    RequestIdReusedError,
)
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import Changes, FlowRun, FlowRunQuery, RequestKey

S = StateCode


def test_creations_that_share_a_commit_are_judged_one_by_one(bench: Bench) -> None:
    gate = threading.Event()
    bench.store._write(lambda _tx: gate.wait(30))  # they gather behind it

    def create(name: str, request: str, content: bytes = b"", flow: str = "etl") -> Pending[FlowRun]:
        new = replace(new_run(name), flow=flow)
        return bench.store.create_flow_run(new, RequestKey("CreateFlowRun/ann", request, content))

    one, again, other = create("one", "r1"), create("two", "r1"), create("three", "r1", b"other")
    twin, unknown, last = create("one", "r2"), create("four", "r3", flow="no such"), create("five", "r4")
    gate.set()
    assert (one.result().run_id, again.result().run_id, last.result().run_id) == ("one", "one", "five")
    for call, error in ((other, RequestIdReusedError), (twin, AlreadyExistsError), (unknown, NotFoundError)):
        with pytest.raises(error):
            call.result()
    stored = bench.store.get_flow_runs(["one", "two", "three", "four", "five"]).result()
    assert [run.run_id for run in stored] == ["one", "five"]
    assert stored[0] == one.result()
    assert [bench.history(run) for run in stored] == [["SCHEDULED"]] * 2


def test_a_run_remembers_what_it_was_created_with(bench: Bench) -> None:
    made = bench.create(parameters_json='{"a": 1}', labels=("y", "x", "y"), run_name="brave-fox")
    assert bench.get(made) == made
    assert (made.labels, made.run_name, made.version, made.state) == (("x", "y"), "brave-fox", 1, S.SCHEDULED)
    assert bench.get(made).parameters_json == '{"a": 1}'


def test_one_intent_makes_one_run(bench: Bench) -> None:
    key = RequestKey("CreateFlowRun/users/ann", "r1", b"content")
    first = bench.create(key)
    assert bench.create(key).run_id == first.run_id
    with pytest.raises(RequestIdReusedError):
        bench.create(RequestKey("CreateFlowRun/users/ann", "r1", b"other"))
    other = bench.create(RequestKey("CreateFlowRun/users/bob", "r1", b"content"))
    assert other.run_id != first.run_id
    bench.clock.advance(24 * 3600)
    bench.store.prune().result()
    assert bench.create(key).run_id == first.run_id
    bench.clock.advance(2 * 3600)
    assert bench.store.prune().result() > 0
    assert bench.create(key).run_id != first.run_id


def test_an_unknown_flow_or_version_makes_no_run_and_no_record(bench: Bench) -> None:
    key = RequestKey("s", "r", b"")
    for wrong in ({"flow": "nothing"}, {"project": "nothing"}, {"version": 7}):
        with pytest.raises(NotFoundError):
            bench.create(key, **wrong)
    assert bench.create(key).version == 1
    with pytest.raises(AlreadyExistsError):
        bench.create(run_id=bench.create().run_id)


def test_the_newest_version_runs_unless_another_is_named(bench: Bench) -> None:
    bench.store.register_flow_version(version(content_hash="2")).result()
    assert bench.create().version == 2
    assert bench.create(version=1).version == 1


def test_a_run_that_nobody_accepted_is_cancelled_at_once(bench: Bench) -> None:
    waiting, offered = bench.create(), bench.create()
    (lease, _) = bench.lease(count=2)
    assert bench.store.cancel_flow_run(waiting.run_id, "users/ann").result().state is S.CANCELLED
    assert bench.store.cancel_flow_run(offered.run_id, "users/ann").result().state is S.CANCELLED
    with pytest.raises(LeaseLostError):
        bench.store.accept_flow_run("a", lease.flow_run.run_id, lease.epoch, TOKEN).result()
    bench.clock.advance(100_000)
    assert bench.store.reap().result().requeued == ()
    assert bench.lease(count=5) == ()
    assert bench.history(waiting) == ["SCHEDULED", "CANCELLED"]


def test_cancelling_twice_is_no_error_and_a_finished_run_refuses(bench: Bench) -> None:
    run = bench.running()
    for _ in range(2):
        asked = bench.store.cancel_flow_run(run.run_id, "users/ann").result()
        assert (asked.state, asked.cancel_requested) == (S.CANCELLING, True)
    bench.send(run, 2, flow(S.CANCELLED))
    assert bench.store.cancel_flow_run(run.run_id, "users/ann").result().state is S.CANCELLED
    assert bench.history(run) == ["SCHEDULED", "SUBMITTED", "RUNNING", "CANCELLING", "CANCELLED"]
    done = bench.running()
    bench.send(done, 2, flow(S.SUCCESS))
    with pytest.raises(IllegalTransitionError):
        bench.store.cancel_flow_run(done.run_id, "users/ann").result()
    with pytest.raises(NotFoundError):
        bench.store.cancel_flow_run("nothing", "users/ann").result()


def test_runs_are_listed_newest_first_in_pages(bench: Bench) -> None:
    bench.store.register_flow_version(version("other")).result()
    made = [bench.create(flow="other" if n % 3 == 0 else "etl").run_id for n in range(7)]
    bench.store.cancel_flow_run(made[2], "users/ann").result()

    def listed(**query: object) -> list[str]:
        ids: list[str] = []
        token = ""
        while True:
            page = bench.store.list_flow_runs(FlowRunQuery(page_size=2, page_token=token, **query)).result()  # type: ignore[arg-type]
            ids += [run.run_id for run in page.items]
            token = page.next_token
            if not token:
                return ids

    assert listed() == made[::-1]
    assert listed(project="p") == made[::-1]
    assert listed(project="p", flow="other") == [made[6], made[3], made[0]]
    assert listed(states=(S.CANCELLED,)) == [made[2]]
    assert listed(states=(S.CANCELLED, S.SCHEDULED)) == made[::-1]
    assert listed(prefix=made[4][:9]) == [made[4]]
    assert listed(prefix="run-3") == [made[2]]
    assert listed(scope=frozenset({"q"})) == []
    assert listed(scope=frozenset({"p"})) == made[::-1]
    with pytest.raises(NotFoundError):
        listed(project="nothing")
    with pytest.raises(NotFoundError):
        listed(project="p", scope=frozenset({"q"}))
    with pytest.raises(InvalidArgumentError):
        bench.store.list_flow_runs(FlowRunQuery(page_token="W10")).result()
    with pytest.raises(InvalidArgumentError):
        bench.store.list_flow_runs(FlowRunQuery(page_token="\x00")).result()


def test_several_runs_are_read_in_the_order_asked_for(bench: Bench) -> None:
    one, two = bench.create(), bench.create()
    found = bench.store.get_flow_runs([two.run_id, "nothing", one.run_id]).result()
    assert [run.run_id for run in found] == [two.run_id, one.run_id]


def test_lateness_is_computed(bench: Bench) -> None:
    run = bench.create(scheduled_micros=bench.clock.now + 10 * SECOND)
    assert bench.get(run).late_micros == 0
    bench.clock.advance(25)
    assert bench.get(run).late_micros == 15 * SECOND


def test_subscribers_hear_of_every_commit(bench: Bench) -> None:
    heard: list[Changes] = []
    stop = bench.store.subscribe(heard.append)
    run = bench.create(labels=("x",))
    bench.store.ping().result()
    bench.agent("x", ["x"])
    (lease,) = bench.lease("x")
    accepted = bench.accept("x", run.run_id, lease.epoch, TOKEN)
    bench.send(accepted, 1, flow(S.RUNNING))
    bench.store.reap().result()
    bench.store.reap().result()  # the answer comes before the news; the second answer comes after it
    ready = [upcoming for changes in heard for upcoming in changes.ready]
    assert [(one.requirement.labels, one.ready_micros) for one in ready] == [(("x",), bench.clock.now)]
    assert sum(run.run_id in changes.runs for changes in heard) == 4
    stop()
    count = len(heard)
    bench.create()
    bench.store.reap().result()
    assert len(heard) == count


async def test_coroutines_wait_for_the_same_answers(bench: Bench) -> None:
    import asyncio

    run = bench.create()
    assert (await bench.store.get_flow_run(run.run_id)).run_id == run.run_id
    with pytest.raises(NotFoundError):
        await bench.store.get_flow_run("nothing")
    answers = await asyncio.gather(*(_cancel(bench, bench.create().run_id) for _ in range(20)))
    assert set(answers) == {S.CANCELLED}


async def _cancel(bench: Bench, run_id: str) -> StateCode:
    return (await bench.store.cancel_flow_run(run_id, "users/ann")).state
