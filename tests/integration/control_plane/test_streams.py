"""What is seen live: logs that are written, de-duplicated and tailed; runs that are watched."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tests.support.scene import NOW_MICROS, RunningRun, Scene, flow_event, graph, task_event
from tests.support.stack import wait_until

from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    log_service_pb2 as logs_pb,
)
from heliograph.api.v1 import (
    states_pb2,
)
from heliograph_control_plane.services import logs


def entry(
    sequence: int, message: str = "line", level: int = logs_pb.LOG_LEVEL_INFO, **fields: object
) -> logs_pb.LogEntry:
    return logs_pb.LogEntry(
        sequence=sequence,
        time_unix_micros=NOW_MICROS + sequence,
        level=level,  # type: ignore[arg-type]
        logger="flow",
        message=message,
        **fields,  # type: ignore[arg-type]
    )


def write(run: RunningRun, *entries: logs_pb.LogEntry) -> logs_pb.WriteLogEntriesResponse:
    return run.api.logs.WriteLogEntries(
        logs_pb.WriteLogEntriesRequest(flow_run=run.name, epoch=run.epoch, entries=entries)
    )


def messages(scene: Scene, run: RunningRun, **fields: object) -> list[str]:
    found, token = [], ""
    while True:
        request = logs_pb.ListLogEntriesRequest(parent=run.name, page_token=token, **fields)  # type: ignore[arg-type]
        page = scene.admin.logs.ListLogEntries(request)
        found += [line.message for line in page.entries]
        token = page.next_page_token
        if not token:
            return found


def test_lines_are_stored_once_however_often_they_are_sent(scene: Scene) -> None:
    run = scene.running()
    assert write(run, entry(1, "one"), entry(2, "two")).acked_sequence == 2
    assert write(run, entry(1, "one"), entry(2, "two"), entry(3, "three")).acked_sequence == 3
    assert messages(scene, run) == ["one", "two", "three"]
    assert messages(scene, run, page_size=2) == ["one", "two", "three"]


def test_a_line_keeps_its_fields_and_grave_lines_can_be_asked_for(scene: Scene) -> None:
    run = scene.running()
    odd = "tab\t newline\n esc\x1b[31m <b>&amp; \u202e 漢字"
    write(run, entry(6, odd, task=1, map_index=0), entry(7, "bad", logs_pb.LOG_LEVEL_ERROR))
    (first, second) = scene.admin.logs.ListLogEntries(logs_pb.ListLogEntriesRequest(parent=run.name)).entries
    assert (first.message, first.task, first.map_index, first.dropped_before) == (odd, 1, 0, 5)
    assert (first.epoch, first.time_unix_micros) == (run.epoch, NOW_MICROS + 6)
    assert not second.HasField("task")
    assert messages(scene, run, min_level=logs_pb.LOG_LEVEL_WARNING) == ["bad"]


def test_pages_of_long_lines_stay_within_what_clients_accept(scene: Scene) -> None:
    run = scene.running()
    for start in range(1, 600, 30):
        write(run, *(entry(n, "x" * 8_000) for n in range(start, start + 30)))
    page = scene.admin.logs.ListLogEntries(logs_pb.ListLogEntriesRequest(parent=run.name, page_size=5_000))
    assert page.ByteSize() < 4 * 1024 * 1024
    assert len(messages(scene, run, page_size=5_000)) == 600


@pytest.mark.parametrize(
    "entries",
    [
        [entry(2), entry(1)],
        [entry(0)],
        [logs_pb.LogEntry(sequence=1, time_unix_micros=-1)],
        [entry(n) for n in range(1, 1_002)],
        [entry(n, "x" * 8_000) for n in range(1, 40)],
        [entry(1, "nul\x00")],
    ],
    ids=["order", "zero", "time", "number", "size", "nul"],
)
def test_a_bad_batch_of_lines_is_refused_whole(scene: Scene, entries: list[logs_pb.LogEntry]) -> None:
    run = scene.running()
    with pytest.raises(grpc.RpcError) as caught:
        write(run, *entries)
    assert caught.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert messages(scene, run) == []


@pytest.mark.usefixtures("hints_only")
def test_a_tail_shows_what_is_there_then_what_comes_and_ends_with_the_run(scene: Scene) -> None:
    run = scene.running()
    run.report(1, flow_event("RUNNING"))
    write(run, entry(1, "before"))
    tail = scene.admin.logs.TailLogEntries(logs_pb.TailLogEntriesRequest(parent=run.name))
    assert [line.message for line in next(tail).entries] == ["before"]
    write(run, entry(2, "now"))
    assert [line.message for line in next(tail).entries] == ["now"]
    run.report(2, flow_event("SUCCESS"))
    write(run, entry(3, "late"))
    assert [line.message for answer in tail for line in answer.entries] == ["late"]


def test_a_tail_of_a_run_that_told_its_end_does_not_keep_its_reader_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "QUIET_SECONDS", 3600.0)  # how long is waited for late lines of a run that told no end
    run = scene.running()
    write(run, entry(1, "only"))
    run.report(1, flow_event("RUNNING"), flow_event("SUCCESS"))
    tail = scene.admin.logs.TailLogEntries(logs_pb.TailLogEntriesRequest(parent=run.name))
    assert [line.message for answer in tail for line in answer.entries] == ["only"]


def test_a_tail_can_begin_at_a_time(scene: Scene) -> None:
    run = scene.running()
    write(run, entry(1, "old"))
    time.sleep(0.01)
    after = Timestamp()
    after.FromMicroseconds(int(time.time() * 1e6))
    write(run, entry(2, "new"))
    run.report(1, flow_event("RUNNING"), flow_event("SUCCESS"))
    tail = scene.admin.logs.TailLogEntries(logs_pb.TailLogEntriesRequest(parent=run.name, after_time=after))
    assert [line.message for answer in tail for line in answer.entries] == ["new"]


def test_a_slow_reader_of_a_tail_holds_nobody_up(scene: Scene) -> None:
    run = scene.running()
    slow = scene.admin.logs.TailLogEntries(logs_pb.TailLogEntriesRequest(parent=run.name))
    quick = scene.admin.logs.TailLogEntries(logs_pb.TailLogEntriesRequest(parent=run.name))
    for start in range(1, 1200, 30):
        write(run, *(entry(n, "x" * 8_000) for n in range(start, start + 30)))
    run.report(1, flow_event("RUNNING"), flow_event("SUCCESS"))
    assert sum(len(answer.entries) for answer in quick) == 1200
    assert sum(len(answer.entries) for answer in slow) == 1200


# --- watching -------------------------------------------------------------------------------------------------------


def watch(scene: Scene, run: RunningRun, **fields: object) -> grpc.Future:
    request = runs_pb.WatchFlowRunsRequest(parent="projects/-", flow_runs=[run.name], until_finished=True, **fields)  # type: ignore[arg-type]
    return scene.admin.runs.WatchFlowRuns(request)


@pytest.mark.usefixtures("hints_only")
def test_a_watch_shows_what_is_then_each_change_and_ends_with_the_run(scene: Scene) -> None:
    run = scene.running()
    changes = watch(scene, run)
    assert next(changes).flow_run.state == states_pb2.STATE_SUBMITTED
    run.report(1, flow_event("RUNNING"))
    assert next(changes).flow_run.state == states_pb2.STATE_RUNNING
    run.report(2, flow_event("SUCCESS"))
    assert [change.flow_run.state for change in changes][-1] == states_pb2.STATE_SUCCESS


def test_a_watch_with_task_runs_shows_every_task_that_changed(scene: Scene) -> None:
    run = scene.running(graph=graph("a", "b", "c"))
    run.report(1, flow_event("RUNNING"), task_event(0, "SUCCESS"))
    changes = watch(scene, run, include_task_runs=True)
    first = next(changes)
    assert [(task.task_slug, task.state) for task in first.task_runs] == [("a", states_pb2.STATE_SUCCESS)]
    run.report(3, task_event(1, "RUNNING"))
    run.report(4, task_event(1, "SUCCESS"), task_event(2, "SKIPPED"), flow_event("SUCCESS"))
    last: dict[str, int] = {}
    for change in changes:
        last |= {task.task_slug: task.state for task in change.task_runs}
        state = change.flow_run.state
    assert last == {"b": states_pb2.STATE_SUCCESS, "c": states_pb2.STATE_SKIPPED}
    assert state == states_pb2.STATE_SUCCESS


def test_a_watch_of_a_project_shows_its_runs_only(scene: Scene) -> None:
    parent, other = scene.project(), scene.project()
    flow, foreign = scene.flow(parent), scene.flow(other)
    wakeups = scene.plane.plane.wakeups
    before = len(wakeups._everything)
    changes = scene.admin.runs.WatchFlowRuns(runs_pb.WatchFlowRunsRequest(parent=parent), timeout=60)
    wait_until(lambda: len(wakeups._everything) > before, "it is watched")
    scene.run(foreign.name)
    mine = scene.run(flow.name)
    assert next(changes).flow_run.name == mine.name
    changes.cancel()


def test_a_watch_needs_names_for_what_concerns_single_runs(scene: Scene) -> None:
    for fields in ({"include_task_runs": True}, {"until_finished": True}):
        with pytest.raises(grpc.RpcError) as caught:
            next(scene.admin.runs.WatchFlowRuns(runs_pb.WatchFlowRunsRequest(parent="projects/-", **fields)))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_closed_watch_leaves_nothing_behind(scene: Scene) -> None:
    run = scene.running()
    wakeups = scene.plane.plane.wakeups
    changes = watch(scene, run)
    next(changes)
    changes.cancel()
    run_id = run.name.rpartition("/")[2]
    wait_until(lambda: run_id not in wakeups._by_run, "nobody listens any more")


def test_many_watchers_of_one_run_all_see_its_end(scene: Scene) -> None:
    run = scene.running()
    ends: list[int] = []

    def follow() -> None:
        ends.append([change.flow_run.state for change in watch(scene, run)][-1])

    threads = [threading.Thread(target=follow) for _ in range(20)]
    for thread in threads:
        thread.start()
    run.report(1, flow_event("RUNNING"), flow_event("FAILED"))
    for thread in threads:
        thread.join(20)
    assert ends == [states_pb2.STATE_FAILED] * 20
