"""Leases: claimed once, by agents that fit; accepted, released, renewed, lost, proven dead."""

from __future__ import annotations

import threading

import pytest
from tests.contract.store.helpers import SECOND, TOKEN, Bench, flow, task, version

from heliograph.api.v1 import states_pb2
from heliograph.engine.codes import LaunchDelay, StateCode
from heliograph.exceptions import IllegalTransitionError, LeaseLostError, NotFoundError
from heliograph_control_plane.store.records import HeldRun, RunCommandKind, Spent

S = StateCode


def reason(failure: bytes) -> str:
    """Returns the name of a failure's reason."""
    return states_pb2.FailureReason.Name(states_pb2.Failure.FromString(failure).reason)


def test_a_due_run_is_leased_once_the_longest_due_first(bench: Bench) -> None:
    now = bench.clock.now
    late = bench.create(scheduled_micros=now - 20 * SECOND)
    latest = bench.create(scheduled_micros=now - 50 * SECOND)
    future = bench.create(scheduled_micros=now + 10 * SECOND)
    first, second = bench.lease(count=5)
    assert [first.flow_run.run_id, second.flow_run.run_id] == [latest.run_id, late.run_id]
    assert (first.epoch, first.attempt, first.expire_micros) == (1, 1, now + 30 * SECOND)
    assert first.flow_version.graph == b"graph"
    assert first.flow_run.late_micros == 50 * SECOND
    assert bench.lease(count=5) == ()
    bench.clock.advance(10)
    assert [one.flow_run.run_id for one in bench.lease(count=5)] == [future.run_id]


def test_the_count_limits_a_claim_over_many_requirements(bench: Bench) -> None:
    made = [
        bench.create(labels=(f"l{n % 5}",), scheduled_micros=bench.clock.now - n * SECOND).run_id for n in range(20)
    ]
    bench.agent("all", [f"l{n}" for n in range(5)])
    leased = [one.flow_run.run_id for one in bench.lease("all", 7)]
    assert leased == made[:-8:-1]
    assert len(bench.lease("all", 100)) == 13


def test_labels_launcher_host_and_project_must_fit(bench: Bench) -> None:
    bench.store.create_project("q", "").result()
    bench.store.register_flow_version(version(project="q")).result()
    bench.store.register_flow_version(version("hosted", host="h1", launcher="docker")).result()
    bench.agent("plain")
    bench.agent("labelled", ["x", "y", "z"])
    bench.agent("hosted", [], host="h1", launcher="docker")
    bench.agent("elsewhere", [], host="h2", launcher="docker")
    bench.agent("local", [], host="h1", launcher="local")
    bench.agent("of-q", [], projects=("q",))
    both = bench.create(labels=("y", "x"))
    assert bench.lease("plain", 10) == ()
    hosted = bench.create(flow="hosted")
    for agent in ("plain", "elsewhere", "local"):
        assert bench.lease(agent, 10) == ()
    of_p = bench.create()
    assert bench.lease("of-q", 10) == ()
    of_q = bench.create(project="q")
    assert [one.flow_run.run_id for one in bench.lease("of-q", 10)] == [of_q.run_id]
    assert bench.store.lease_flow_runs("hosted", "s", 10, frozenset({"q"})).result() == ()
    leased = {one.flow_run.run_id for one in bench.lease("hosted", 10)}
    assert leased == {hosted.run_id, of_p.run_id}
    assert [one.flow_run.run_id for one in bench.lease("labelled", 10)] == [both.run_id]


def test_an_agent_that_never_registered_gets_nothing(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        bench.lease("nobody")


def test_the_same_poll_again_gets_the_same_leases_while_they_live(bench: Bench) -> None:
    runs = [bench.create() for _ in range(3)]
    given = bench.lease(count=2, request_id="poll")
    again = bench.lease(count=2, request_id="poll")
    assert [(one.flow_run.run_id, one.epoch) for one in again] == [(one.flow_run.run_id, one.epoch) for one in given]
    bench.store.accept_flow_run("a", runs[0].run_id, 1, TOKEN).result()
    assert [one.flow_run.run_id for one in bench.lease(count=2, request_id="poll")] == [runs[1].run_id]
    bench.clock.advance(31)
    late = bench.lease(count=2, request_id="poll")
    assert late == ()
    assert isinstance(late, Spent), "it is never given others"
    assert [one.flow_run.run_id for one in bench.lease(count=2, request_id="other")] == [runs[2].run_id]
    bench.agent("b")
    others = bench.lease("b", 2, request_id="poll")
    assert others == ()
    assert not isinstance(others, Spent), "it is another agent's"


def test_a_poll_that_got_nothing_may_go_on_under_its_request_id(bench: Bench) -> None:
    nothing = bench.lease(request_id="poll")
    assert nothing == ()
    assert not isinstance(nothing, Spent)
    bench.create()
    assert len(bench.lease(request_id="poll")) == 1


def test_acceptance_submits_the_run_once(bench: Bench) -> None:
    run = bench.create()
    (lease,) = bench.lease()
    accepted = bench.accept("a", run.run_id, lease.epoch, b"one")
    assert (accepted.state, accepted.attempt, accepted.agent) == (S.SUBMITTED, 1, "a")
    again = bench.accept("a", run.run_id, lease.epoch, b"two")
    assert again.attempt == 1
    assert bench.store.authenticate_run(run.run_id, lease.epoch, b"one").result() is None
    assert bench.store.authenticate_run(run.run_id, lease.epoch, b"two").result() is not None
    bench.store.reap().result()  # the writer's queue is in order: the token's use is noted now
    with pytest.raises(IllegalTransitionError):
        bench.store.accept_flow_run("a", run.run_id, lease.epoch, b"three").result()
    assert bench.history(run) == ["SCHEDULED", "SUBMITTED"]


def test_only_the_holder_of_the_epoch_accepts_releases_and_reports(bench: Bench) -> None:
    run = bench.create()
    (lease,) = bench.lease()
    bench.agent("b")
    for agent, epoch in (("b", lease.epoch), ("a", lease.epoch - 1), ("a", lease.epoch + 1)):
        with pytest.raises(LeaseLostError):
            bench.store.accept_flow_run(agent, run.run_id, epoch, TOKEN).result()
        with pytest.raises(LeaseLostError):
            bench.store.release_flow_run(agent, run.run_id, epoch, b"", 0).result()
        with pytest.raises(LeaseLostError):
            bench.store.report_flow_run_exit(agent, run.run_id, epoch, b"", 0).result()
    with pytest.raises(LeaseLostError):
        bench.store.report_flow_run_exit("a", run.run_id, lease.epoch, b"", 0).result()


def test_an_unaccepted_lease_ends_and_its_run_goes_back(bench: Bench) -> None:
    run = bench.create()
    (lease,) = bench.lease()
    bench.clock.advance(29)
    assert bench.store.reap().result().requeued == ()
    bench.clock.advance(2)
    assert bench.store.reap().result().requeued == (run.run_id,)
    with pytest.raises(LeaseLostError):
        bench.store.accept_flow_run("a", run.run_id, lease.epoch, TOKEN).result()
    (again,) = bench.lease()
    assert (again.epoch, again.attempt) == (lease.epoch + 1, 1)
    assert bench.history(run) == ["SCHEDULED"]


def test_a_released_run_waits_for_its_back_off(bench: Bench) -> None:
    run = bench.submitted()
    released = bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 60 * SECOND).result()
    assert released.state is S.SCHEDULED
    assert bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result().state is S.SCHEDULED
    assert bench.lease() == ()
    bench.clock.advance(61)
    assert bench.lease()[0].attempt == 1, "nothing was launched"
    assert bench.history(run) == ["SCHEDULED", "SUBMITTED", "SCHEDULED"]


def test_a_run_keeps_why_it_was_put_back_until_it_starts(bench: Bench) -> None:
    run = bench.submitted()
    put = bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 60 * SECOND, LaunchDelay.QUOTA).result()
    assert (put.launch_delay, put.put_backs) == (LaunchDelay.QUOTA, 1)
    assert put.ready_micros == bench.clock.now + 60 * SECOND
    bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 5 * SECOND, LaunchDelay.IMAGE).result()
    assert bench.get(run) == put, "delivered twice, it was put back once"
    bench.clock.advance(61)
    (lease,) = bench.lease()
    assert (lease.flow_run.launch_delay, lease.flow_run.put_backs) == (LaunchDelay.QUOTA, 1)
    again = bench.accept("a", run.run_id, lease.epoch)
    assert (again.launch_delay, again.put_backs, again.ready_micros) == (0, 1, 0), "it is tried: what was is over"
    bench.store.release_flow_run("a", run.run_id, lease.epoch, b"", 1, 0).result()
    bench.clock.advance(1)
    (last,) = bench.lease()
    assert (last.flow_run.launch_delay, last.flow_run.put_backs) == (0, 2), "an agent that does not say why"
    bench.accept("a", run.run_id, last.epoch)
    bench.send(bench.get(run), 1, flow(S.RUNNING))
    started = bench.get(run)
    assert (started.launch_delay, started.put_backs) == (0, 0)


def test_a_run_that_is_given_back_at_once_was_not_put_back(bench: Bench) -> None:
    run = bench.submitted()
    assert bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result().put_backs == 0


def test_a_heartbeat_says_what_a_run_waits_for_until_it_begins(bench: Bench) -> None:
    run, other = bench.submitted(), bench.submitted()

    def beat(delay: int, agent: str = "a", epoch: int = run.epoch, *, renew: bool = True) -> int:
        held = [HeldRun(run.run_id, epoch, renew, waits_for=delay), HeldRun(other.run_id, other.epoch, renew=True)]
        bench.store.heartbeat_agent(agent, held, False).result()
        assert bench.get(other).launch_delay == 0
        return bench.get(run).launch_delay

    assert beat(LaunchDelay.NO_ROOM) == LaunchDelay.NO_ROOM
    bench.agent("b")
    assert beat(LaunchDelay.IMAGE, "b") == LaunchDelay.NO_ROOM, "another agent has no say"
    assert beat(LaunchDelay.IMAGE, epoch=run.epoch - 1) == LaunchDelay.NO_ROOM, "nor has another lease"
    assert beat(LaunchDelay.IMAGE) == LaunchDelay.IMAGE
    assert beat(LaunchDelay.IMAGE, renew=False) == 0, "its supervisor was heard of"
    assert beat(LaunchDelay.STORAGE) == LaunchDelay.STORAGE
    bench.send(run, 1, flow(S.RUNNING))
    assert bench.get(run).launch_delay == 0
    assert beat(LaunchDelay.STORAGE) == 0, "a heartbeat that was late"


def test_a_run_released_for_good_crashes(bench: Bench) -> None:
    run = bench.submitted()
    failure = states_pb2.Failure(reason=states_pb2.FAILURE_REASON_POLICY).SerializeToString()
    released = bench.store.release_flow_run("a", run.run_id, run.epoch, failure, 0).result()
    assert (released.state, released.failure) == (S.CRASHED, failure)
    assert not released.presumed_dead
    bench.clock.advance(10_000)
    assert bench.lease() == ()


def test_a_run_that_reported_events_cannot_be_given_back(bench: Bench) -> None:
    run = bench.running()
    with pytest.raises(IllegalTransitionError):
        bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result()


def test_a_heartbeat_renews_what_has_no_supervisor_yet(bench: Bench) -> None:
    renewed, silent = bench.submitted(), bench.submitted()
    bench.clock.advance(50)
    held = [HeldRun(renewed.run_id, renewed.epoch, True), HeldRun(silent.run_id, silent.epoch, False)]
    assert bench.store.heartbeat_agent("a", held, False).result() == ()
    bench.clock.advance(50)
    assert not bench.get(renewed).lost
    assert bench.get(silent).lost
    agent = bench.store.get_agent("a").result()
    assert (agent.running, agent.draining, agent.online) == (2, False, False)
    bench.store.heartbeat_agent("a", [], True).result()
    agent = bench.store.get_agent("a").result()
    assert (agent.running, agent.draining, agent.online) == (0, True, True)


def test_a_heartbeat_brings_back_commands(bench: Bench) -> None:
    cancelled, finished, stale, fine = bench.running(), bench.running(), bench.submitted(), bench.running()
    bench.store.cancel_flow_run(cancelled.run_id, "users/ann").result()
    bench.send(finished, 2, flow(S.SUCCESS))
    bench.store.release_flow_run("a", stale.run_id, stale.epoch, b"", 0).result()
    held = [HeldRun(run.run_id, run.epoch, False) for run in (cancelled, finished, stale, fine)]
    held.append(HeldRun("not-there", 1, False))
    commands = bench.store.heartbeat_agent("a", held, False).result()
    assert [(one.run_id, one.command) for one in commands] == [
        (cancelled.run_id, RunCommandKind.CANCEL),
        (finished.run_id, RunCommandKind.FORGET),
        (stale.run_id, RunCommandKind.ABANDON),
    ]


def test_an_agent_hears_that_a_run_is_heard_of_before_it_hears_of_its_cancellation(bench: Bench) -> None:
    """The other way round it would end from outside what its supervisor is about to end."""
    heard, unheard = bench.running(), bench.submitted()
    assert bench.store.authenticate_run(heard.run_id, heard.epoch, TOKEN).result() is not None
    for run in (heard, unheard):
        bench.store.cancel_flow_run(run.run_id, "users/ann").result()
    held = [HeldRun(run.run_id, run.epoch, True) for run in (heard, unheard)]
    commands = bench.store.heartbeat_agent("a", held, False).result()
    assert [(one.run_id, one.command) for one in commands] == [
        (heard.run_id, RunCommandKind.CONNECTED),
        (heard.run_id, RunCommandKind.CANCEL),
        (unheard.run_id, RunCommandKind.CANCEL),
    ]


def test_the_proof_of_death_ends_an_unfinished_run(bench: Bench) -> None:
    run = bench.running()
    failure = states_pb2.Failure(reason=states_pb2.FAILURE_REASON_SIGNAL, signal=9).SerializeToString()
    for _ in range(2):
        ended = bench.store.report_flow_run_exit("a", run.run_id, run.epoch, failure, 77).result()
        assert (ended.state, ended.failure, ended.end_micros) == (S.CRASHED, failure, 77)
    assert bench.history(run) == ["SCHEDULED", "SUBMITTED", "RUNNING", "CRASHED"]
    assert bench.send(run, 2, task(0, S.SUCCESS), flow(S.SUCCESS)).acked_sequence == 3
    assert bench.get(run).state is S.CRASHED


def test_the_proof_of_death_of_a_cancelling_run_cancels_it(bench: Bench) -> None:
    run = bench.running()
    bench.store.cancel_flow_run(run.run_id, "users/ann").result()
    assert bench.store.report_flow_run_exit("a", run.run_id, run.epoch, b"", 0).result().state is S.CANCELLED


def test_an_exit_after_the_end_changes_nothing(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, flow(S.SUCCESS))
    assert bench.store.report_flow_run_exit("a", run.run_id, run.epoch, b"x", 5).result().state is S.SUCCESS


def test_a_silent_run_is_lost_then_crashed_but_never_tried_again(bench: Bench) -> None:
    run = bench.running()
    bench.clock.advance(61)
    assert bench.get(run).lost
    assert bench.store.reap().result().crashed == ()
    bench.clock.advance(540)
    assert bench.store.reap().result().crashed == (run.run_id,)
    crashed = bench.get(run)
    assert (crashed.state, crashed.presumed_dead, crashed.lost) == (S.CRASHED, True, False)
    assert reason(crashed.failure) == "FAILURE_REASON_LOST"
    bench.clock.advance(100_000)
    assert bench.store.reap().result().crashed == ()
    assert bench.lease() == ()


def test_a_run_that_is_heard_of_is_never_reaped(bench: Bench) -> None:
    run = bench.running()
    for _ in range(30):
        bench.clock.advance(50)
        bench.send(run, 2)
        assert bench.store.reap().result().crashed == ()
    bench.clock.advance(599)
    assert bench.store.reap().result().crashed == ()
    bench.clock.advance(2)
    assert bench.store.reap().result().crashed == (run.run_id,)


@pytest.mark.parametrize("by_heartbeat", [False, True])
def test_a_presumed_dead_run_that_speaks_lives_again(bench: Bench, by_heartbeat: bool) -> None:
    run = bench.running()
    bench.clock.advance(601)
    bench.store.reap().result()
    if by_heartbeat:
        bench.store.heartbeat_agent("a", [HeldRun(run.run_id, run.epoch, True)], False).result()
        assert bench.get(run).state is S.RUNNING
    assert bench.send(run, 2, task(0, S.SUCCESS), flow(S.SUCCESS)).acked_sequence == 3
    ended = bench.get(run)
    assert (ended.state, ended.presumed_dead, ended.failure) == (S.SUCCESS, False, b"")
    assert bench.history(run)[-3:] == ["CRASHED", "RUNNING", "SUCCESS"]


def test_the_late_proof_of_death_settles_a_presumption(bench: Bench) -> None:
    run = bench.running()
    bench.clock.advance(601)
    bench.store.reap().result()
    settled = bench.store.report_flow_run_exit("a", run.run_id, run.epoch, b"", 0).result()
    assert (settled.state, settled.presumed_dead) == (S.CRASHED, False)
    bench.send(run, 2, flow(S.SUCCESS))
    assert bench.get(run).state is S.CRASHED


def test_an_operator_confirms_only_what_is_lost(bench: Bench) -> None:
    run = bench.running()
    with pytest.raises(IllegalTransitionError):
        bench.store.confirm_flow_run_dead(run.run_id, "users/ann").result()
    bench.clock.advance(61)
    dead = bench.store.confirm_flow_run_dead(run.run_id, "users/ann").result()
    assert (dead.state, dead.presumed_dead, reason(dead.failure)) == (S.CRASHED, False, "FAILURE_REASON_OPERATOR")
    assert bench.store.list_flow_run_states(run.run_id).result()[-1].set_by == "users/ann"
    bench.send(run, 2, flow(S.SUCCESS))
    assert bench.get(run).state is S.CRASHED


def test_acceptances_that_share_a_commit_are_judged_one_by_one(bench: Bench) -> None:
    for _ in range(3):
        bench.create()
    first, second, third = bench.lease(count=3)
    gate = threading.Event()
    bench.store._write(lambda _tx: gate.wait(30))  # they gather behind it
    good = [
        bench.store.accept_flow_run("a", first.flow_run.run_id, first.epoch, b"one"),
        bench.store.accept_flow_run("a", first.flow_run.run_id, first.epoch, b"two"),
        bench.store.accept_flow_run("a", third.flow_run.run_id, third.epoch, b"three", "p", frozenset({"p", "q"})),
    ]
    stale = bench.store.accept_flow_run("a", second.flow_run.run_id, second.epoch + 1, TOKEN)
    hidden = [
        bench.store.accept_flow_run("a", "nowhere", 1, TOKEN),
        bench.store.accept_flow_run("a", second.flow_run.run_id, second.epoch, TOKEN, "q"),
        bench.store.accept_flow_run("a", second.flow_run.run_id, second.epoch, TOKEN, "", frozenset({"q"})),
    ]
    gate.set()
    for call in good:
        call.result()
    with pytest.raises(LeaseLostError):
        stale.result()
    for call in hidden:
        with pytest.raises(NotFoundError):
            call.result()
    states = [bench.get(lease.flow_run).state for lease in (first, second, third)]
    assert states == [S.SUBMITTED, S.SCHEDULED, S.SUBMITTED]
    run_id = first.flow_run.run_id
    assert bench.store.authenticate_run(run_id, 1, b"one").result() is None
    assert bench.store.authenticate_run(run_id, 1, b"two").result() is not None


def test_a_run_that_nobody_takes_crashes_after_a_week(bench: Bench) -> None:
    run = bench.create()
    bench.clock.advance(7 * 86_400 - 1)
    assert bench.store.reap().result().crashed == ()
    bench.clock.advance(2)
    assert bench.store.reap().result().crashed == (run.run_id,)
    crashed = bench.get(run)
    assert (crashed.presumed_dead, reason(crashed.failure)) == (False, "FAILURE_REASON_START_TIMEOUT")


def test_the_reaper_works_in_portions(bench: Bench) -> None:
    for _ in range(5):
        bench.create()
    bench.lease(count=5)
    bench.clock.advance(31)
    passes = [bench.store.reap(2).result() for _ in range(3)]
    assert [len(one.requeued) for one in passes] == [2, 2, 1]
    assert [one.more for one in passes] == [True, True, False]


def test_upcoming_names_the_first_time_of_every_requirement(bench: Bench) -> None:
    now = bench.clock.now
    bench.create(labels=("x",), scheduled_micros=now + 9 * SECOND)
    bench.create(labels=("x",), scheduled_micros=now + 5 * SECOND)
    bench.create(scheduled_micros=now + 7 * SECOND)
    found = bench.store.upcoming().result()
    assert [(one.requirement.labels, one.ready_micros - now) for one in found] == [
        (("x",), 5 * SECOND), ((), 7 * SECOND),
    ]  # fmt: skip


def test_an_unreadable_row_is_set_aside_and_harms_no_other(bench: Bench) -> None:
    bad, good = bench.create(), bench.create()
    store = bench.store
    from sqlalchemy import update

    from heliograph_control_plane.store.schema import flow_runs

    store._write(
        lambda tx: (
            tx.connection.execute(update(flow_runs).where(flow_runs.c.uuid == bad.run_id).values(counts="{")).rowcount
        )
    ).result()
    assert [one.flow_run.run_id for one in bench.lease(count=5)] == [good.run_id]
    assert [(one.kind, one.key) for one in store.list_quarantined().result()] == [("flow_run", bad.run_id)]
    bench.clock.advance(10_000_000)
    assert bad.run_id not in store.reap().result().crashed
    assert bad.run_id not in {one.flow_run.run_id for one in bench.lease(count=5)}
