"""The outbox's thread: order, flushing, full disks, full lanes, and lines that make room."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from tests.support import ends

from heliograph.api.v1.log_service_pb2 import LogEntry
from heliograph.api.v1.run_reporting_service_pb2 import RunEvent
from heliograph.engine.codes import StateCode
from heliograph.reporting import writer as writer_module
from heliograph.reporting.lanes import LOGS, STATES, Lane, LaneReader
from heliograph.reporting.sink import OutboxLogHandler, RunReporter
from heliograph.reporting.writer import OutboxWriter


class NoLedger:
    """Stands where a ledger is not looked at."""


def reporter(outbox: OutboxWriter) -> RunReporter:
    return RunReporter(outbox, NoLedger())  # type: ignore[arg-type]


def read_states(folder: Path, lane: Lane = STATES) -> list[RunEvent]:
    reader, found = LaneReader(folder, lane), []
    while (chunk := reader.read(100, 10**6)).payloads:
        found += [RunEvent.FromString(payload) for payload in chunk.payloads]
    reader.close()
    return found


def read_lines(folder: Path, lane: Lane = LOGS) -> list[LogEntry]:
    reader, found = LaneReader(folder, lane), []
    while (chunk := reader.read(100, 10**6)).payloads:
        found += [LogEntry.FromString(payload) for payload in chunk.payloads]
    reader.close()
    return found


def test_events_of_many_threads_arrive_each_thread_in_order(tmp_path: Path) -> None:
    outbox = OutboxWriter(tmp_path)
    sink = reporter(outbox)

    def work(task: int) -> None:
        for number in range(1, 501):
            sink.task_state(task, None, StateCode.RUNNING, number, number)

    ends.together(partial(work, task) for task in range(4))
    sink.flow_state(StateCode.SUCCESS, 501)
    assert outbox.close()
    events = read_states(tmp_path)
    for task in range(4):
        mine = [e.task_run.run_count for e in events if e.HasField("task_run") and e.task_run.task == task]
        assert mine == list(range(1, 501))
    assert events[-1].flow_run.state == StateCode.SUCCESS
    assert len(events) == 2001


def test_a_poke_comes_with_the_first_event(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    outbox = OutboxWriter(tmp_path, writing)
    reporter(outbox).flow_state(StateCode.RUNNING, 1)
    assert os.read(reading, 1) == b"\0"
    assert [event.flow_run.state for event in read_states(tmp_path)] == [StateCode.RUNNING]
    outbox.close()
    os.close(reading)
    os.close(writing)


def test_lines_before_the_final_state_are_on_disk_when_it_is(tmp_path: Path) -> None:
    outbox = OutboxWriter(tmp_path)
    sink = reporter(outbox)
    for number in range(3000):
        outbox.logs.append((number, 20, "x", "line", None, None))
    sink.flow_state(StateCode.SUCCESS, 1)
    while not read_states(tmp_path):
        pass
    assert len(read_lines(tmp_path)) == 3000
    outbox.close()


def test_a_full_disk_stops_new_tasks_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    outbox = OutboxWriter(tmp_path)
    sink, real, full = reporter(outbox), os.write, threading.Event()
    refused = threading.Event()

    def write(descriptor: int, data: bytes) -> int:
        if full.is_set() and str(Path(f"/proc/self/fd/{descriptor}").readlink()).endswith(".seg"):
            refused.set()
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    full.set()
    sink.task_state(0, None, StateCode.RUNNING, 1, 1)
    assert refused.wait(5)
    while not outbox.full:  # set right after the refusal, by the other thread
        time.sleep(0.001)
    sink.task_state(0, None, StateCode.SUCCESS, 2, 1)  # what runs may end
    started = threading.Event()

    def start() -> None:
        sink.task_state(1, None, StateCode.RUNNING, 3, 1)
        started.set()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    assert not started.wait(0.1)
    full.clear()
    assert started.wait(5)
    ends.join(thread)
    assert outbox.close()
    assert [e.task_run.time_unix_micros for e in read_states(tmp_path)] == [1, 2, 3]
    said = capfd.readouterr().err
    assert "No space left" in said
    assert "no new task starts" in said
    assert "has room again" in said


def test_a_full_lane_stops_new_tasks_until_the_reader_trims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    lane = Lane("states", segment_bytes=500, cap_bytes=2000)
    outbox = OutboxWriter(tmp_path, states=lane)
    sink = reporter(outbox)
    number = 0
    while not outbox.full:
        number += 1
        sink.task_state(0, None, StateCode.SUCCESS, number, 1)
        outbox.flush(5)
    started = threading.Event()

    def start() -> None:
        sink.task_state(1, None, StateCode.RUNNING, number + 1, 1)
        started.set()

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    assert not started.wait(0.1)
    reader = LaneReader(tmp_path, lane)
    while reader.read(100, 10**6).payloads:
        pass
    reader.trim(number)
    assert started.wait(5)
    ends.join(thread)
    assert outbox.close()


def test_an_event_that_cannot_be_told_does_not_silence_the_others(tmp_path: Path) -> None:
    outbox = OutboxWriter(tmp_path)
    sink = reporter(outbox)
    sink.task_state(-1, None, StateCode.RUNNING, 1, 1)
    sink.task_state(1, None, StateCode.RUNNING, 2, 1)
    assert outbox.close()
    assert [event.task_run.task for event in read_states(tmp_path)] == [1]


def test_old_lines_make_room_and_are_counted(tmp_path: Path) -> None:
    lane = Lane("logs", segment_bytes=2000, cap_bytes=10_000)
    outbox = OutboxWriter(tmp_path, logs=lane)
    for number in range(2000):
        outbox.logs.append((number, 20, "x", "a line of a flood", None, None))
        if number % 50 == 0:
            outbox.flush(5)
    assert outbox.close()
    entries = read_lines(tmp_path, lane)
    assert entries[-1].sequence == 2000
    assert entries[0].sequence > 1
    assert [entry.sequence for entry in entries] == list(range(entries[0].sequence, 2001))


@pytest.mark.parametrize(("mode", "message"), [("redacted", "said aloud"), ("local", "")])
def test_the_mode_decides_what_of_a_line_crosses(tmp_path: Path, mode: str, message: str) -> None:
    outbox = OutboxWriter(tmp_path)
    handler = OutboxLogHandler(outbox, mode)  # type: ignore[arg-type]
    record = logging.LogRecord("heliograph.mine", 30, __file__, 1, "said %s", ("aloud",), None)
    record.task_index, record.map_index = 4, 2
    handler.emit(record)
    assert outbox.close()
    [entry] = read_lines(tmp_path)
    assert (entry.message, entry.level, entry.task, entry.map_index) == (message, 30, 4, 2)
