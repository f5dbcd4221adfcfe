"""The pumps against a scripted control plane on a real wire: gaps, restores, lost leases, commands, bad networks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.integration.agent.conftest import eventually
from tests.support import ends

from heliograph.api.v1 import (
    log_service_pb2 as logs_pb,
)
from heliograph.api.v1 import (
    log_service_pb2_grpc,
    run_reporting_service_pb2_grpc,
)
from heliograph.api.v1 import (
    run_reporting_service_pb2 as pb,
)
from heliograph.api.v1.agent_service_pb2 import Command
from heliograph.client.channel import open_channel
from heliograph.engine.codes import StateCode
from heliograph.reporting.events import flow_event, log_entry, task_event
from heliograph.reporting.lanes import LOGS, STATES, Lane, LaneWriter
from heliograph_agents import pumping
from heliograph_agents.log_shipping import LogPump
from heliograph_agents.pumping import Link, Verdict, Writer
from heliograph_agents.shipping import StatePump

RUN = "projects/p/flowRuns/r"


def events(first: int, count: int) -> list[bytes]:
    return [task_event((n, None, StateCode.RUNNING, n, 1, 0, 0, None, False)) for n in range(first, first + count)]


def final() -> bytes:
    return flow_event((StateCode.SUCCESS, 99, None))


def refuse(context: Any, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    """Ends a call as the control plane does."""
    status = status_pb2.Status(code=code.value[0], message=reason)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="heliograph", metadata=metadata))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, reason)


class Scripted(run_reporting_service_pb2_grpc.RunReportingServiceServicer, log_service_pb2_grpc.LogServiceServicer):
    """Stores what it gets; `on_batch` may do something else first."""

    def __init__(self) -> None:
        self.stored: dict[int, pb.RunEvent] = {}
        self.lines: list[logs_pb.LogEntry] = []
        self.order: list[str] = []
        self.holes: list[tuple[int, int]] = []
        self.incarnation = "one"
        self.streams = 0
        self.unary = 0
        self.refuse_streams = False
        self.on_batch: Callable[[pb.RunEventBatch, Any], pb.RunEventAck | None] = lambda _batch, _context: None
        self.on_lines: Callable[[Any], None] = lambda _context: None
        self.say = threading.Event()
        self.unasked: list[pb.RunEventAck] = []

    @property
    def last(self) -> int:
        return max(self.stored, default=0)

    def ack(self, command: int = 0) -> pb.RunEventAck:
        return pb.RunEventAck(acked_sequence=self.last, incarnation=self.incarnation, command=command)  # type: ignore[arg-type]

    def apply(self, batch: pb.RunEventBatch, context: Any) -> pb.RunEventAck:
        answer = self.on_batch(batch, context)
        if answer is not None:
            return answer
        if batch.first_sequence > self.last + 1:
            if not 0 < batch.hole_from_sequence <= self.last + 1:
                refuse(context, grpc.StatusCode.ABORTED, "SEQUENCE_GAP", expected_sequence=str(self.last + 1))
            self.holes.append((batch.hole_from_sequence, batch.first_sequence))
        for number, event in enumerate(batch.events, batch.first_sequence):
            self.stored[number] = event
            self.order.append("final" if event.HasField("flow_run") else "event")
        return self.ack()

    def StreamRunEvents(self, request_iterator: Iterator[pb.RunEventBatch], context: Any) -> Iterator[pb.RunEventAck]:
        if self.refuse_streams:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")
        self.streams += 1
        for batch in request_iterator:
            yield self.apply(batch, context)
            while self.unasked:
                yield self.unasked.pop()

    def ReportRunEvents(self, request: pb.RunEventBatch, context: Any) -> pb.RunEventAck:
        self.unary += 1
        return self.apply(request, context)

    def WriteLogEntries(self, request: logs_pb.WriteLogEntriesRequest, context: Any) -> logs_pb.WriteLogEntriesResponse:
        self.on_lines(context)
        self.lines += request.entries
        self.order += ["line"] * len(request.entries)
        return logs_pb.WriteLogEntriesResponse(acked_sequence=request.entries[-1].sequence)


class Rig:
    """Both pumps, an outbox to fill, and the scripted control plane."""

    def __init__(self, folder: Path, server: Scripted, port: int) -> None:
        self.server = server
        self.commands: list[int] = []
        self.contact = threading.Event()
        self.states = LaneWriter(folder, STATES)
        self.logs = LaneWriter(folder, LOGS)
        self.link = Link(lambda: open_channel(f"127.0.0.1:{port}"))
        self.asked, self.ended = threading.Event(), threading.Semaphore(0)
        writer = Writer(RUN, 1)
        self.log_pump = LogPump(self.link, folder, writer, on_end=self.ended.release)
        self.pump = StatePump(
            self.link, folder, writer, incarnation="one", renew_every_seconds=0.5, on_contact=self.contact.set,
            on_command=self._command, on_end=self.ended.release, drain_logs=self.log_pump.drain,
        )  # fmt: skip
        self.log_pump.states_idle = self.pump.idle

    def _command(self, command: int) -> None:
        self.commands.append(command)
        self.asked.set()

    def start(self) -> Rig:
        self.pump.start()
        self.log_pump.start()
        return self

    def put(self, *payloads: bytes) -> None:
        self.states.append(list(payloads))
        self.pump.poke()
        self.log_pump.poke()

    def finish(self) -> Verdict | None:
        self.pump.finish()
        self.log_pump.finish()
        self.pump.join(60)
        self.log_pump.join(60)
        return self.pump.verdict


@pytest.fixture
def server() -> Scripted:
    return Scripted()


@pytest.fixture
def rig(tmp_path: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(pumping, "LONGEST_PAUSE_SECONDS", 0.05)
    listening = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    run_reporting_service_pb2_grpc.add_RunReportingServiceServicer_to_server(server, listening)
    log_service_pb2_grpc.add_LogServiceServicer_to_server(server, listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    made = Rig(tmp_path, server, port)
    try:
        yield made
    finally:
        made.pump.stop()
        made.log_pump.stop()
        made.link.close()
        ends.stop(listening)


def test_everything_arrives_in_order_and_the_first_batch_is_the_contact(rig: Rig, server: Scripted) -> None:
    rig.start()
    assert rig.contact.wait(60)
    for first in range(1, 3001, 300):
        rig.put(*events(first, 300))
    assert rig.finish() is Verdict.DONE
    assert list(server.stored) == list(range(1, 3001))
    assert server.streams == 1


def test_a_gap_is_filled_from_where_the_control_plane_says(rig: Rig, server: Scripted) -> None:
    rig.put(*events(1, 10))
    forgotten: list[int] = []

    def forget(batch: pb.RunEventBatch, context: Any) -> None:
        if not forgotten and len(server.stored) == 10:
            forgotten.extend(range(5, 11))
            for number in forgotten:
                del server.stored[number]

    server.on_batch = forget
    rig.start()
    assert rig.contact.wait(60)
    rig.put(*events(11, 1))
    assert rig.finish() is Verdict.DONE
    assert sorted(server.stored) == list(range(1, 12))


def test_a_restored_control_plane_gets_again_what_it_lost(rig: Rig, server: Scripted) -> None:
    rig.put(*events(1, 20))

    def restore(batch: pb.RunEventBatch, context: Any) -> pb.RunEventAck | None:
        if server.incarnation == "one" and server.last == 20:
            server.incarnation = "two"
            server.stored = {number: server.stored[number] for number in range(1, 6)}
            return server.ack()
        return None

    server.on_batch = restore
    rig.start()
    eventually(lambda: server.incarnation == "two" and server.last == 20, "all is there again")
    assert rig.finish() is Verdict.DONE
    assert sorted(server.stored) == list(range(1, 21))


def test_what_is_gone_for_good_is_told_as_a_hole(rig: Rig, server: Scripted, tmp_path: Path) -> None:
    small = Lane("states", 200, 10**6)
    rig.states = LaneWriter(tmp_path, small)
    rig.pump._reader._lane = small
    for number in range(1, 101):
        rig.states.append(events(number, 1))
    rig.start()
    eventually(lambda: server.last == 100, "all is there")
    server.incarnation = "two"
    server.stored.clear()
    rig.put(*events(101, 1))
    assert rig.finish() is Verdict.DONE
    assert server.last == 101
    [(start, stop)] = server.holes
    assert start == 1
    assert sorted(server.stored) == list(range(stop, 102))


def test_a_damaged_record_is_a_hole_and_the_rest_arrives(rig: Rig, server: Scripted, tmp_path: Path) -> None:
    rig.states.append(events(1, 10))
    [path] = tmp_path.glob("states-*.seg")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    rig.start()
    rig.put(*events(11, 5), final())
    assert rig.finish() is Verdict.DONE
    assert server.last == 16
    [(start, stop)] = server.holes
    assert stop == start + 1
    assert sorted(server.stored) == [number for number in range(1, 17) if number != start]


def test_an_event_that_the_control_plane_refuses_is_left_out_and_the_rest_arrives(rig: Rig, server: Scripted) -> None:
    bad = pb.RunEvent()
    bad.task_run.task = 77
    rig.states.append([*events(1, 6), bad.SerializeToString(), *events(8, 5), final()])

    def judge(batch: pb.RunEventBatch, context: Any) -> None:
        if any(event.task_run.task == 77 for event in batch.events):
            refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "")

    server.on_batch = judge
    rig.start()
    assert rig.finish() is Verdict.DONE
    assert server.last == 13
    assert server.holes == [(7, 8)]
    assert sorted(server.stored) == [number for number in range(1, 14) if number != 7]


def test_a_lost_lease_ends_it(rig: Rig, server: Scripted) -> None:
    server.on_batch = lambda _batch, context: refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")
    rig.start()
    rig.pump.join(60)
    assert rig.pump.verdict is Verdict.LEASE_LOST


def test_a_command_comes_with_an_acknowledgement_or_by_itself(rig: Rig, server: Scripted) -> None:
    server.unasked.append(pb.RunEventAck(acked_sequence=0, incarnation="one", command=Command.COMMAND_CANCEL))
    rig.start()
    assert rig.asked.wait(60)
    assert rig.commands == [Command.COMMAND_CANCEL]
    rig.put(*events(1, 5))
    assert rig.finish() is Verdict.DONE
    assert server.last == 5


def test_a_finished_run_is_not_told_to_forget_itself(rig: Rig, server: Scripted) -> None:
    server.on_batch = lambda _batch, _context: server.ack(Command.COMMAND_FORGET) if server.last else None
    rig.put(final())
    rig.start()
    assert rig.finish() is Verdict.DONE
    assert rig.commands == []


def test_without_streams_it_calls(rig: Rig, server: Scripted) -> None:
    server.refuse_streams = True
    rig.put(*events(1, 2500))
    rig.start()
    assert rig.finish() is Verdict.DONE
    assert server.last == 2500
    assert server.unary >= 3


def test_it_goes_on_through_failures_without_losing_or_doubling(rig: Rig, server: Scripted) -> None:
    failures = iter([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAUTHENTICATED] * 3)

    def fail(batch: pb.RunEventBatch, context: Any) -> None:
        code = next(failures, None)
        if code is not None:
            context.abort(code, "not now")

    server.on_batch = fail
    rig.put(*events(1, 100))
    rig.start()
    assert rig.contact.wait(60)
    assert rig.finish() is Verdict.DONE
    assert list(server.stored) == list(range(1, 101))


def test_a_refused_token_is_final_once_the_flow_has_ended(rig: Rig, server: Scripted) -> None:
    server.on_batch = lambda _batch, context: refuse(context, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    rig.put(*events(1, 1))
    rig.start()
    assert rig.finish() is Verdict.REFUSED


def test_silence_renews_the_lease(rig: Rig, server: Scripted) -> None:
    empty = threading.Semaphore(0)

    def count(batch: pb.RunEventBatch, context: Any) -> None:
        if not batch.events:
            empty.release()

    server.on_batch = count
    rig.start()
    for _ in range(3):
        assert empty.acquire(timeout=60)


def test_lines_come_before_the_final_state(rig: Rig, server: Scripted) -> None:
    lines = [log_entry((n, 20, "x", "hello", None, None), n) for n in range(1, 2501)]
    for start in range(0, 2500, 500):
        rig.logs.append(lines[start : start + 500])
    rig.put(*events(1, 3), final())
    rig.start()
    assert rig.finish() is Verdict.DONE
    assert len(server.lines) == 2500
    assert server.order[-1] == "final"


def test_lines_that_fail_are_sent_again_and_hold_up_no_state(rig: Rig, server: Scripted) -> None:
    failures = iter([grpc.StatusCode.UNAVAILABLE] * 3)

    def fail(context: Any) -> None:
        code = next(failures, None)
        if code is not None:
            context.abort(code, "not now")

    server.on_lines = fail
    rig.logs.append([log_entry((1, 20, "x", "hello", None, None), 1)])
    rig.put(*events(1, 3))
    rig.start()
    assert rig.finish() is Verdict.DONE
    rig.log_pump.join(60)
    assert rig.log_pump.verdict is Verdict.DONE
    assert [entry.message for entry in server.lines] == ["hello"]
