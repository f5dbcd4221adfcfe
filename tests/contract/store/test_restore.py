"""A store that was restored from a backup: a new identity, epochs above all older ones, writers taken in again."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from tests.contract.store.helpers import SECOND, Bench, Clock, flow, task
from tests.support.postgres import PostgresCluster

from heliograph.engine.codes import StateCode
from heliograph.exceptions import LeaseLostError, SequenceGapError
from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.records import EventBatch, FlowRun, HeldRun, RunCommandKind
from heliograph_control_plane.store.writer import Transaction

S = StateCode


def forget_events(bench: Bench, run: FlowRun, keep: int) -> None:
    """Takes a run back to what a backup knew of it."""

    def forget(tx: Transaction) -> None:
        tx.connection.execute(
            text("UPDATE flow_runs SET last_sequence = :keep WHERE uuid = :run"), {"keep": keep, "run": run.run_id}
        )
        tx.connection.execute(text("DELETE FROM task_run_states WHERE sequence > :keep"), {"keep": keep})
        tx.connection.execute(text("DELETE FROM task_runs WHERE last_sequence > :keep"), {"keep": keep})

    bench.store._write(forget).result()


def test_a_restored_store_has_a_new_identity_for_good(bench: Bench) -> None:
    before = bench.store.incarnation
    made = bench.store.mark_restored().result()
    assert made == bench.store.incarnation != before
    bench.reopen()
    assert bench.store.incarnation == made


def test_epochs_after_a_restore_exceed_all_that_were_given_out(bench: Bench) -> None:
    run = bench.submitted()
    bench.store.mark_restored().result()
    bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result()
    (lease,) = bench.lease()
    assert lease.epoch > 1_000_000_000
    bench.reopen()
    again = bench.create()
    assert bench.lease()[0].epoch > 1_000_000_000
    assert again.epoch == 0


def test_lost_events_are_asked_for_again(bench: Bench) -> None:
    run = bench.running()
    old = bench.store.incarnation
    bench.send(run, 2, *(task(n, S.SUCCESS) for n in range(8)))
    forget_events(bench, run, 4)
    bench.store.mark_restored().result()
    with pytest.raises(SequenceGapError) as caught:
        bench.send(run, 10, flow(S.SUCCESS), incarnation=old)
    assert caught.value.metadata["expected_sequence"] == "5"
    bench.send(run, 5, *(task(n, S.SUCCESS) for n in range(3, 8)), flow(S.SUCCESS), incarnation=old)
    ended = bench.get(run)
    assert (ended.state, ended.last_sequence, ended.missing_events) == (S.SUCCESS, 10, 0)
    assert ended.counts == ((S.SUCCESS, 8),)


def test_a_hole_is_recorded_when_the_writer_lost_them_too(bench: Bench) -> None:
    run = bench.running()
    old = bench.store.incarnation
    bench.send(run, 2, *(task(n, S.SUCCESS) for n in range(8)))
    forget_events(bench, run, 4)
    bench.store.mark_restored().result()
    bench.send(run, 10, flow(S.SUCCESS), incarnation=old, hole_from_sequence=5)
    ended = bench.get(run)
    assert (ended.state, ended.missing_events, ended.last_sequence) == (S.SUCCESS, 5, 10)


@pytest.mark.parametrize("by_heartbeat", [False, True])
def test_a_lease_that_the_backup_did_not_know_is_taken_in(bench: Bench, by_heartbeat: bool) -> None:
    run = bench.create()
    old = bench.store.incarnation
    bench.store.mark_restored().result()
    if by_heartbeat:
        bench.store.heartbeat_agent("a", [HeldRun(run.run_id, 3, False)], False).result()
    else:
        with pytest.raises(SequenceGapError):
            bench.send(run, 7, task(0, S.SUCCESS), epoch=3, incarnation=old)
    taken = bench.get(run)
    assert (taken.state, taken.epoch, taken.attempt) == (S.SUBMITTED, 3, 1)
    assert bench.lease() == ()
    ack = bench.send(run, 1, flow(S.RUNNING), epoch=3, incarnation=bench.store.incarnation)
    assert ack.acked_sequence == 1


def test_an_epoch_that_no_store_can_have_given_out_is_refused(bench: Bench) -> None:
    run = bench.create()
    old = bench.store.incarnation
    bench.store.mark_restored(0).result()
    (lease,) = bench.lease()
    for beyond in (lease.epoch, lease.epoch + 1, 1 << 61):
        with pytest.raises(LeaseLostError):
            bench.send(run, 1, flow(S.RUNNING), epoch=beyond, incarnation=old)
    assert bench.get(run).epoch == lease.epoch
    assert bench.accept("a", run.run_id, lease.epoch).state is S.SUBMITTED


def test_a_newer_epoch_that_nobody_gave_out_is_refused(bench: Bench) -> None:
    run = bench.create()
    with pytest.raises(LeaseLostError):
        bench.send(run, 1, flow(S.RUNNING), epoch=3)
    with pytest.raises(LeaseLostError):
        bench.send(run, 1, flow(S.RUNNING), epoch=3, incarnation=bench.store.incarnation)
    assert bench.store.heartbeat_agent("a", [HeldRun(run.run_id, 3, True)], False).result() != ()
    assert bench.get(run).state is S.SCHEDULED


# --- what may have happened since the backup ------------------------------------------------------------------------


def test_what_waits_in_the_backup_is_not_given_out_at_once(bench: Bench) -> None:
    due = bench.create()
    later = bench.create(scheduled_micros=bench.clock.now + 3600 * SECOND)
    bench.store.mark_restored().result()
    assert bench.lease(count=5) == ()
    fresh = bench.create()
    assert [one.flow_run.run_id for one in bench.lease(count=5)] == [fresh.run_id]
    bench.clock.advance(121)
    assert [one.flow_run.run_id for one in bench.lease(count=5)] == [due.run_id]
    bench.clock.advance(3600)
    assert [one.flow_run.run_id for one in bench.lease(count=5)] == [later.run_id]


@pytest.mark.parametrize("by_heartbeat", [False, True])
def test_an_offer_that_the_backup_knows_may_have_been_accepted_since(bench: Bench, by_heartbeat: bool) -> None:
    run = bench.create()
    (lease,) = bench.lease()
    old = bench.store.incarnation
    bench.store.mark_restored().result()
    if by_heartbeat:
        commands = bench.store.heartbeat_agent("a", [HeldRun(run.run_id, lease.epoch, True)], False).result()
        assert [one.command for one in commands] == [RunCommandKind.ACCEPT]
    else:
        bench.send(run, 1, flow(S.RUNNING), epoch=lease.epoch, incarnation=old, agent="a")
    taken = bench.get(run)
    assert (taken.epoch, taken.attempt, taken.agent) == (lease.epoch, 1, "a")
    bench.clock.advance(200)
    assert bench.lease() == ()


def test_an_offer_that_nobody_accepted_is_made_again(bench: Bench) -> None:
    run = bench.create()
    (lease,) = bench.lease()
    bench.store.mark_restored().result()
    bench.clock.advance(121)
    bench.store.reap().result()
    (again,) = bench.lease()
    assert (again.flow_run.run_id, again.epoch > lease.epoch, again.attempt) == (run.run_id, True, 1)


def test_a_run_whose_token_was_forgotten_is_to_be_accepted_again(bench: Bench) -> None:
    known = bench.running()
    run = bench.create()
    bench.store.mark_restored().result()
    held = [HeldRun(run.run_id, 3, False), HeldRun(known.run_id, known.epoch, False)]
    commands = bench.store.heartbeat_agent("a", held, False).result()
    assert [(one.run_id, one.command) for one in commands] == [(run.run_id, RunCommandKind.ACCEPT)]
    assert bench.accept("a", run.run_id, 3, b"new").attempt == 1
    assert bench.store.heartbeat_agent("a", held, False).result() == ()
    assert bench.store.authenticate_run(run.run_id, 3, b"new").result() is not None


def test_a_run_that_ended_since_is_finished_by_its_last_event(bench: Bench) -> None:
    run = bench.create()
    old = bench.store.incarnation
    bench.store.mark_restored().result()
    for _ in range(2):
        bench.send(run, 9, flow(S.SUCCESS), epoch=1, incarnation=old, hole_from_sequence=1, agent="a")
    ended = bench.get(run)
    assert (ended.state, ended.missing_events, ended.attempt, ended.agent) == (S.SUCCESS, 8, 1, "a")
    bench.clock.advance(10_000)
    assert bench.lease() == ()


def test_other_control_planes_follow_with_their_next_commit(postgres: PostgresCluster) -> None:
    bench = Bench(postgres.clean_database(), Clock())
    other = open_store(bench.url, clock=bench.clock)
    try:
        known = bench.running()
        run, old = bench.create(), bench.store.incarnation
        made = bench.store.mark_restored().result()
        ack = other.apply_event_batch(EventBatch(run.run_id, 3, 1, (flow(S.RUNNING),), old, agent="a")).result()
        assert ack.incarnation == other.incarnation == made
        assert bench.get(run).state is S.RUNNING
        with pytest.raises(LeaseLostError):
            other.apply_event_batch(EventBatch(known.run_id, 1 << 33, 1, (), old)).result()
        fresh = bench.create()
        (lease,) = other.lease_flow_runs("a", "poll", 5).result()
        assert (lease.flow_run.run_id, lease.epoch > 1_000_000_000) == (fresh.run_id, True)
    finally:
        other.close()
        bench.close()
