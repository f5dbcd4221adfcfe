"""A control plane that lies: it speaks the real wire, offers what a test wants, and keeps what agents answer.

Beside it a bucket that writes down every object that is asked for: what an agent fetched is seen there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from heliograph.api.v1 import agent_service_pb2 as agents
from heliograph.api.v1 import (
    agent_service_pb2_grpc,
    log_service_pb2,
    log_service_pb2_grpc,
    run_reporting_service_pb2,
    run_reporting_service_pb2_grpc,
)
from heliograph.api.v1.flow_run_service_pb2 import FlowRun

ACCEPTED = {"run_token": "hg_token", "incarnation": "store-1"}
WAIT_SECONDS = 60.0


@dataclass
class Seen:
    """What the agent told of one run."""

    accepted: int = 0
    released: list[int] = field(default_factory=list)
    """Reasons, 0 for none."""
    exits: list[int] = field(default_factory=list)
    reasons: list[int] = field(default_factory=list)
    """Reasons of the flow's own final states."""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def refusal(self) -> int:
        """The first reason that was given; 0 when there was none."""
        return next((reason for reason in (*self.released, *self.reasons, *self.exits) if reason), 0)


class EvilPlane:
    """A server of the three services that agents and supervisors call.

    Attributes:
        address: `127.0.0.1:port`.
        accept: Makes the answer to an accept.
        heartbeat: Makes the answer to a heartbeat.
        acks: Makes the acknowledgements of one batch.
        polls: Times that the agent asked for work.
    """

    def __init__(self) -> None:
        self._offers: queue.Queue[list[agents.FlowRunLease] | Exception] = queue.Queue()
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._polled = threading.Condition()
        self.polls = 0
        self.accept: Callable[[], dict[str, Any]] = lambda: ACCEPTED
        self.heartbeat: Callable[[], agents.HeartbeatAgentResponse] = agents.HeartbeatAgentResponse
        self.acks: Callable[[int], list[run_reporting_service_pb2.RunEventAck]] = _honest
        self._server = grpc.server(ThreadPoolExecutor(32))
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(_Agents(self), self._server)  # type: ignore[abstract]
        run_reporting_service_pb2_grpc.add_RunReportingServiceServicer_to_server(_Reports(self), self._server)
        log_service_pb2_grpc.add_LogServiceServicer_to_server(_Logs(), self._server)  # type: ignore[abstract]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Ends the server."""
        self._offers.put([])
        self._server.stop(0.2).wait(60)

    def offer(self, *leases: agents.FlowRunLease) -> None:
        """Answers the next poll with these leases."""
        self._offers.put(list(leases))

    def break_a_poll(self, error: Exception) -> None:
        """Answers the next poll with an error."""
        self._offers.put(error)

    def wait_for_polls(self, more: int) -> None:
        """Waits until the agent has asked `more` times from now: what was offered before is dealt with then."""
        with self._polled:
            wanted = self.polls + more
            assert self._polled.wait_for(lambda: self.polls >= wanted, WAIT_SECONDS), "the agent asks no more"

    def seen(self, flow_run: str) -> Seen:
        """Returns what was told of a run so far."""
        with self._lock:
            return self._seen.setdefault(flow_run, Seen())

    def wait_for(self, flow_run: str) -> Seen:
        """Waits until the agent has told the end of a run."""
        seen = self.seen(flow_run)
        assert seen.over.wait(WAIT_SECONDS), f"nothing is told of {flow_run}: {seen}"
        return seen

    def next_offer(self, seconds: float) -> list[agents.FlowRunLease]:
        """Takes the next offer, for the servicer."""
        with self._polled:
            self.polls += 1
            self._polled.notify_all()
        try:
            offer = self._offers.get(timeout=max(0.0, min(seconds, 2.0)))
        except queue.Empty:
            return []
        if isinstance(offer, Exception):
            raise offer
        return offer


class _Agents(agent_service_pb2_grpc.AgentServiceServicer):
    def __init__(self, plane: EvilPlane) -> None:
        self._plane = plane

    def RegisterAgent(self, request: Any, context: Any) -> agents.Agent:
        return agents.Agent(name=f"agents/{request.agent_id}")

    def LeaseFlowRuns(self, request: Any, context: Any) -> agents.LeaseFlowRunsResponse:
        return agents.LeaseFlowRunsResponse(leases=self._plane.next_offer(float(request.wait.seconds)))

    def AcceptFlowRun(self, request: Any, context: Any) -> agents.AcceptFlowRunResponse:
        self._plane.seen(request.flow_run).accepted += 1
        return agents.AcceptFlowRunResponse(**self._plane.accept())

    def CreateStartCode(self, request: Any, context: Any) -> agents.CreateStartCodeResponse:
        return agents.CreateStartCodeResponse(start_code="hg_start")

    def ReleaseFlowRun(self, request: Any, context: Any) -> FlowRun:
        seen = self._plane.seen(request.flow_run)
        seen.released.append(int(request.failure.reason))
        seen.over.set()
        return FlowRun(name=request.flow_run)

    def HeartbeatAgent(self, request: Any, context: Any) -> agents.HeartbeatAgentResponse:
        return self._plane.heartbeat()

    def ReportFlowRunExit(self, request: Any, context: Any) -> FlowRun:
        seen = self._plane.seen(request.flow_run)
        seen.exits.append(int(request.failure.reason))
        seen.over.set()
        return FlowRun(name=request.flow_run)


class _Reports(run_reporting_service_pb2_grpc.RunReportingServiceServicer):
    def __init__(self, plane: EvilPlane) -> None:
        self._plane = plane

    def StreamRunEvents(self, batches: Any, context: Any) -> Iterator[run_reporting_service_pb2.RunEventAck]:
        for batch in batches:
            yield from self._answer(batch)

    def ReportRunEvents(self, batch: Any, context: Any) -> run_reporting_service_pb2.RunEventAck:
        return self._answer(batch)[-1]

    def _answer(self, batch: Any) -> list[run_reporting_service_pb2.RunEventAck]:
        for event in batch.events:
            if event.WhichOneof("kind") == "flow_run" and event.flow_run.HasField("failure"):
                self._plane.seen(batch.flow_run).reasons.append(int(event.flow_run.failure.reason))
        return self._plane.acks(batch.first_sequence + len(batch.events) - 1)


class _Logs(log_service_pb2_grpc.LogServiceServicer):
    def WriteLogEntries(self, request: Any, context: Any) -> log_service_pb2.WriteLogEntriesResponse:
        return log_service_pb2.WriteLogEntriesResponse(acked_sequence=2**62)


def _honest(sequence: int) -> list[run_reporting_service_pb2.RunEventAck]:
    return [
        run_reporting_service_pb2.RunEventAck(
            acked_sequence=sequence, incarnation=ACCEPTED["incarnation"], lease=Duration(seconds=60)
        )
    ]


class Bucket:
    """An S3 endpoint that serves the folders below `root` as buckets, and writes down what is asked for.

    Attributes:
        asked: Paths, in order.
    """

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                bucket.asked.append(path)
                file = root / path.lstrip("/")
                data = file.read_bytes() if file.is_file() else b"<Error><Code>NoSuchKey</Code></Error>"
                self.send_response(200 if file.is_file() else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="bucket", daemon=True).start()

    def stop(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()
