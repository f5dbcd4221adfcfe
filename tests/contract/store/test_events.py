"""Events are stored exactly once and in order, under the epoch that holds the run."""

from __future__ import annotations

import pytest
from tests.contract.store.helpers import Bench, flow, task

from heliograph.engine.codes import StateCode
from heliograph.exceptions import InvalidArgumentError, LeaseLostError, NotFoundError, SequenceGapError
from heliograph_control_plane.store.records import EventBatch, RunCommandKind, TaskEvent

S = StateCode


def test_states_and_task_runs_are_kept_with_their_times(bench: Bench) -> None:
    run = bench.submitted()
    ack = bench.send(
        run, 1, flow(S.RUNNING, 10), task(0, S.RUNNING, 11), task(0, S.SUCCESS, 12), task(1, S.RUNNING, 13)
    )
    assert ack.acked_sequence == 4
    assert ack.incarnation == bench.store.incarnation
    stored = bench.get(run)
    assert (stored.state, stored.start_micros, stored.last_sequence) == (S.RUNNING, 10, 4)
    assert stored.counts == ((S.RUNNING, 1), (S.SUCCESS, 1))
    first, second = bench.store.list_task_runs(run.run_id, (), 10, "").result().items
    assert (first.state, first.start_micros, first.end_micros, first.last_sequence) == (S.SUCCESS, 11, 12, 3)
    assert (second.state, second.start_micros, second.end_micros) == (S.RUNNING, 13, 0)
    states = bench.store.list_task_run_states(run.run_id, None, None, 10, "").result().items
    assert [(one.sequence, one.task, one.state) for one in states] == [
        (2, 0, S.RUNNING), (3, 0, S.SUCCESS), (4, 1, S.RUNNING),
    ]  # fmt: skip


def test_a_retried_task_keeps_its_first_start(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, task(0, S.RUNNING, 20), task(0, S.RETRYING, 21))
    bench.send(run, 4, task(0, S.RUNNING, 30, count=2))
    found = bench.store.get_task_run(run.run_id, 0, None).result()
    assert (found.start_micros, found.state_micros, found.run_count, found.end_micros) == (20, 30, 2, 0)


def test_the_same_batch_again_is_acknowledged_and_stored_once(bench: Bench) -> None:
    run = bench.running()
    for _ in range(3):
        assert bench.send(run, 2, task(0, S.RUNNING), task(0, S.SUCCESS)).acked_sequence == 3
    states = bench.store.list_task_run_states(run.run_id, None, None, 100, "").result().items
    assert [one.sequence for one in states] == [2, 3]
    assert bench.get(run).counts == ((S.SUCCESS, 1),)


def test_only_the_tail_of_an_overlapping_batch_is_stored(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, task(0, S.RUNNING))
    assert bench.send(run, 2, task(0, S.RUNNING), task(0, S.SUCCESS)).acked_sequence == 3
    states = bench.store.list_task_run_states(run.run_id, 0, None, 100, "").result().items
    assert [one.state for one in states] == [S.RUNNING, S.SUCCESS]


def test_a_gap_is_refused_and_says_where_to_go_on(bench: Bench) -> None:
    run = bench.running()
    with pytest.raises(SequenceGapError) as caught:
        bench.send(run, 5, task(0, S.RUNNING))
    assert caught.value.metadata == {"expected_sequence": "2"}
    with pytest.raises(SequenceGapError):
        bench.send(run, 3)
    assert bench.get(run).last_sequence == 1


def test_a_hole_that_nobody_can_fill_is_recorded(bench: Bench) -> None:
    run = bench.running()
    assert bench.send(run, 10, task(0, S.SUCCESS), hole_from_sequence=2).acked_sequence == 10
    assert bench.get(run).missing_events == 8
    assert bench.send(run, 10, task(0, S.SUCCESS), hole_from_sequence=2).acked_sequence == 10
    assert bench.get(run).missing_events == 8


def test_an_older_epoch_and_an_unaccepted_lease_are_fenced(bench: Bench) -> None:
    run = bench.create()
    (first,) = bench.lease()
    with pytest.raises(LeaseLostError):
        bench.send(run, 1, task(0, S.RUNNING), epoch=first.epoch)
    bench.store.release_flow_run("a", run.run_id, first.epoch, b"", 0).result()
    with pytest.raises(LeaseLostError):
        bench.send(run, 1, task(0, S.RUNNING), epoch=first.epoch)
    (second,) = bench.lease()
    bench.store.accept_flow_run("a", run.run_id, second.epoch, b"x").result()
    for epoch in (0, first.epoch, second.epoch + 1):
        with pytest.raises(LeaseLostError):
            bench.send(run, 1, task(0, S.RUNNING), epoch=epoch)
    assert bench.send(run, 1, task(0, S.RUNNING), epoch=second.epoch).acked_sequence == 1


def test_sequences_start_again_under_a_new_epoch(bench: Bench) -> None:
    run = bench.submitted()
    bench.store.release_flow_run("a", run.run_id, run.epoch, b"", 0).result()
    (lease,) = bench.lease()
    again = bench.accept("a", run.run_id, lease.epoch, b"x")
    assert (again.attempt, again.epoch) == (1, run.epoch + 1)
    assert bench.send(again, 1, flow(S.RUNNING)).acked_sequence == 1


def test_the_end_of_a_run_is_final(bench: Bench) -> None:
    run = bench.running()
    ack = bench.send(run, 2, task(0, S.SUCCESS), flow(S.SUCCESS, 50))
    assert (ack.acked_sequence, ack.command) == (3, RunCommandKind.FORGET)
    ack = bench.send(run, 4, flow(S.FAILED, 60), flow(S.RUNNING, 61), task(1, S.SUCCESS))
    assert ack.acked_sequence == 6
    stored = bench.get(run)
    assert (stored.state, stored.end_micros) == (S.SUCCESS, 50)
    assert stored.counts == ((S.SUCCESS, 2),)
    assert bench.history(run) == ["SCHEDULED", "SUBMITTED", "RUNNING", "SUCCESS"]


def test_a_writer_cannot_bring_a_run_back_to_what_it_was(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, flow(S.SCHEDULED), flow(S.SUBMITTED), flow(S.RUNNING), flow(S.RETRYING))
    assert bench.history(run) == ["SCHEDULED", "SUBMITTED", "RUNNING"]


def test_an_empty_batch_renews_the_lease(bench: Bench) -> None:
    run = bench.running()
    bench.clock.advance(59)
    assert bench.send(run, 2).acked_sequence == 1
    bench.clock.advance(59)
    assert not bench.get(run).lost
    bench.clock.advance(2)
    assert bench.get(run).lost
    bench.send(run, 2)
    assert not bench.get(run).lost


def test_failures_are_kept_with_run_and_task(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, TaskEvent(0, -1, int(S.FAILED), 5, 1, failure=b"why"), flow(S.FAILED, 6, b"sum"))
    assert bench.store.get_task_run(run.run_id, 0, None).result().failure == b"why"
    assert bench.get(run).failure == b"sum"
    assert bench.store.list_flow_run_states(run.run_id).result()[-1].failure == b"sum"


def test_children_of_a_map_are_runs_of_their_own(bench: Bench) -> None:
    run = bench.running()
    parent = TaskEvent(3, -1, int(S.MAPPED), 5, 1, child_count=3)
    bench.send(run, 2, parent, *(task(3, S.SUCCESS, 6, child=n) for n in range(3)))
    found = bench.store.list_task_runs(run.run_id, (), 10, "").result().items
    assert [(one.task, one.map_index) for one in found] == [(3, None), (3, 0), (3, 1), (3, 2)]
    assert found[0].child_count == 3
    page = bench.store.list_task_runs(run.run_id, (S.SUCCESS,), 2, "").result()
    assert len(page.items) == 2
    rest = bench.store.list_task_runs(run.run_id, (S.SUCCESS,), 2, page.next_token).result()
    assert [one.map_index for one in rest.items] == [2]
    assert bench.get(run).counts == ((S.SUCCESS, 3), (S.MAPPED, 1))


def test_counts_survive_a_restart(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, task(0, S.RUNNING), task(1, S.RUNNING))
    bench.reopen()
    bench.send(run, 4, task(0, S.SUCCESS))
    assert bench.get(run).counts == ((S.RUNNING, 1), (S.SUCCESS, 1))


def test_changed_task_runs_are_found_by_sequence(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, task(0, S.RUNNING), task(1, S.RUNNING), task(0, S.SUCCESS))
    changed, after = bench.store.list_changed_task_runs(run.run_id, run.epoch, 0, 100).result()
    assert ([one.task for one in changed], after) == ([0, 1], 4)
    bench.send(run, 5, task(1, S.SUCCESS))
    changed, after = bench.store.list_changed_task_runs(run.run_id, run.epoch, after, 100).result()
    assert ([(one.task, one.state) for one in changed], after) == ([(1, S.SUCCESS)], 5)
    assert bench.store.list_changed_task_runs(run.run_id, run.epoch, after, 100).result() == ((), 5)


def test_values_out_of_range_are_refused(bench: Bench) -> None:
    run = bench.running()
    for bad in (
        {"first_sequence": 0}, {"first_sequence": 1 << 63, "hole_from_sequence": 1}, {"epoch": 1 << 63},
        {"events": (TaskEvent(0, -1, 0, 1, 1),)}, {"events": (TaskEvent(0, -1, 99, 1, 1),)},
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            bench.send(run, 2, **bad)
    with pytest.raises(NotFoundError):
        bench.store.apply_event_batch(EventBatch("no-such-run", 1, 1)).result()


def test_an_agent_reports_only_for_its_own_runs(bench: Bench) -> None:
    run = bench.running()
    bench.agent("b")
    with pytest.raises(LeaseLostError):
        bench.send(run, 2, flow(S.FAILED), agent="b")
    bench.send(run, 2, flow(S.FAILED), agent="a")
    assert bench.store.list_flow_run_states(run.run_id).result()[-1].set_by == "agents/a"


def test_batches_of_many_runs_in_one_commit_do_not_mix(bench: Bench) -> None:
    runs = [bench.running() for _ in range(5)]
    pending = [
        bench.store.apply_event_batch(EventBatch(run.run_id, run.epoch, first, (task(first, S.SUCCESS),)))
        for first in range(2, 22)
        for run in runs
    ]
    assert [one.result().acked_sequence for one in pending] == [first for first in range(2, 22) for _ in runs]
    for run in runs:
        assert bench.get(run).counts == ((S.SUCCESS, 20),)


def test_a_cancelled_run_tells_its_writer(bench: Bench) -> None:
    run = bench.running()
    bench.store.cancel_flow_run(run.run_id, "users/ann").result()
    assert bench.send(run, 2).command is RunCommandKind.CANCEL
    bench.send(run, 2, flow(S.RUNNING))
    assert bench.get(run).state is S.CANCELLING
    bench.send(run, 3, flow(S.CANCELLED))
    assert bench.history(run)[-2:] == ["CANCELLING", "CANCELLED"]


def test_a_loop_ends_an_iteration_and_not_the_task_run(bench: Bench) -> None:
    run = bench.running()
    bench.send(run, 2, task(0, S.RUNNING, 10), task(0, S.LOOPED, 20))
    looped = bench.store.get_task_run(run.run_id, 0, None).result()
    assert (looped.state, looped.start_micros, looped.end_micros) == (S.LOOPED, 10, 0)
    bench.send(run, 4, task(0, S.RUNNING, 30), task(0, S.LOOPED, 40), task(0, S.RUNNING, 50))
    again = bench.store.get_task_run(run.run_id, 0, None).result()
    assert (again.state, again.start_micros, again.end_micros) == (S.RUNNING, 10, 0)
    bench.send(run, 7, task(0, S.SUCCESS, 60))
    ended = bench.store.get_task_run(run.run_id, 0, None).result()
    assert (ended.state, ended.start_micros, ended.end_micros) == (S.SUCCESS, 10, 60)
    states = bench.store.list_task_run_states(run.run_id, 0, None, 100, "").result().items
    assert [one.state for one in states] == [S.RUNNING, S.LOOPED] * 2 + [S.RUNNING, S.SUCCESS]
    assert bench.get(run).counts == ((S.SUCCESS, 1),)
