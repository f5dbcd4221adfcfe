"""RunReportingService: what a run reports of itself, by stream or by single calls, through one function.

A stream is pipelined: the next batches are read and queued for the store while earlier ones commit; acknowledgements
go down in order. When something is asked of the run (cancel, abandon), an answer says so at once, without a batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from heliograph.api.contract import FieldViolation
from heliograph.api.v1 import options_pb2, run_reporting_service_pb2_grpc, states_pb2
from heliograph.api.v1 import run_reporting_service_pb2 as pb
from heliograph.exceptions import LeaseLostError, NotFoundError, ResourceExhaustedError
from heliograph_control_plane import calls
from heliograph_control_plane.domain.runs import RUN_LEASE
from heliograph_control_plane.errors import BadRequestError
from heliograph_control_plane.store.pending import Pending
from heliograph_control_plane.store.records import (
    Event,
    EventAck,
    EventBatch,
    FlowEvent,
    RunCommandKind,
    TaskEvent,
)
from heliograph_control_plane.waiting import wait_until
from heliograph_control_plane.wakeups import SLOW_POLL_SECONDS

from . import convert, names
from .acting import judge_agent, visible_agent
from .backend import Backend, no_run

MAX_EVENTS = 1_000
WINDOW = 16
"""Batches of one stream that may be on their way to the store."""

_LEASE = convert.duration(RUN_LEASE)


class RunReportingService(run_reporting_service_pb2_grpc.RunReportingServiceServicer):
    """Answers RunReportingService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def ReportRunEvents(self, request: pb.RunEventBatch, context: Any) -> pb.RunEventAck:
        """See the API."""
        writer = await writer_of(self._backend, request)
        return _answer(await self._submit(writer, request))

    async def StreamRunEvents(
        self, request_iterator: AsyncIterator[pb.RunEventBatch], context: Any
    ) -> AsyncIterator[pb.RunEventAck]:
        """See the API."""
        stream = _Stream(self, self._backend, request_iterator)
        async for ack in stream.answers():
            yield ack

    def _submit(self, writer: Writer, request: pb.RunEventBatch) -> Pending[EventAck]:
        """Checks a batch and queues it for the store."""
        batch = EventBatch(
            run_id=writer.run_id,
            epoch=request.epoch,
            first_sequence=request.first_sequence,
            events=_events(request),
            incarnation=request.incarnation,
            hole_from_sequence=request.hole_from_sequence,
            agent=writer.agent,
        )
        self._backend.metrics.events += len(batch.events)
        return self._backend.store.apply_event_batch(batch)


class Writer:
    """Who reports: a run itself, or the agent that has it."""

    __slots__ = ("agent", "epoch", "run_id")

    def __init__(self, run_id: str, epoch: int, agent: str) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.agent = agent


async def writer_of(backend: Backend, request: Any) -> Writer:
    """Returns who writes, when the caller may write for that run and epoch.

    A run writes for itself; an agent names itself, and writes for the runs that it has; an administrator for any.

    Raises:
        NotFoundError: No such run, or no such agent, for this caller.
        PermissionDeniedError: The agent named is somebody else's.
        LeaseLostError: A run token of another epoch, or another agent's lease.
    """
    project, run_id = names.run("flow_run", request.flow_run)
    caller = calls.principal()
    if not request.epoch:
        raise BadRequestError([FieldViolation("epoch", "is not set")])
    if caller.run is not None:
        if caller.run.run_id != run_id or not caller.may_see(project):
            raise no_run()
        if caller.run.epoch != request.epoch:
            raise LeaseLostError("the token belongs to another epoch of the run")
        return Writer(run_id, request.epoch, "")
    assert caller.has(options_pb2.ROLE_AGENT) or caller.has(options_pb2.ROLE_ADMIN)
    run = await backend.visible_run("flow_run", request.flow_run)
    if not request.agent and caller.has(options_pb2.ROLE_ADMIN):
        return Writer(run_id, request.epoch, run.agent)
    name = names.agent("agent", request.agent)
    judge_agent(await visible_agent(backend, name))
    # A newer epoch is for the store to judge: it may have forgotten the lease when it was restored.
    if request.epoch <= run.epoch and (request.epoch, name) != (run.epoch, run.agent):
        raise LeaseLostError("the run has another lease, or none")
    return Writer(run_id, request.epoch, name)


class _Stream:
    """One stream of batches. The first one says which run it is about; the others must agree."""

    def __init__(
        self, service: RunReportingService, backend: Backend, requests: AsyncIterator[pb.RunEventBatch]
    ) -> None:
        self._service = service
        self._backend = backend
        self._requests = requests
        self._pending: deque[Pending[EventAck]] = deque()
        self._room = asyncio.Semaphore(WINDOW)
        self._event = asyncio.Event()
        self._acked = 0
        self._told = RunCommandKind.NONE

    async def answers(self) -> AsyncIterator[pb.RunEventAck]:
        first = await anext(aiter(self._requests), None)
        if first is None:
            return
        writer = await writer_of(self._backend, first)
        with self._backend.wakeups.listen([writer.run_id], states_only=True) as listener:
            # One event for both: a batch was queued, or the run changed.
            listener.event = self._event
            reader = asyncio.create_task(self._read(writer, first))
            try:
                while True:
                    self._event.clear()
                    while self._pending:
                        yield await self._acknowledge(self._pending.popleft())
                    if reader.done():
                        reader.result()
                        if not self._pending:
                            return
                        continue
                    if listener.runs and (command := await self._command(writer)):
                        yield command
                    listener.runs.clear()
                    if self._backend.wakeups.stopping.is_set():
                        return
                    await wait_until(self._event, SLOW_POLL_SECONDS)
                    if not self._event.is_set():
                        listener.runs.add(writer.run_id)
            finally:
                reader.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await reader

    async def _read(self, writer: Writer, first: pb.RunEventBatch) -> None:
        try:
            await self._queue(writer, first, first)
            async for request in self._requests:
                await self._queue(writer, first, request)
        finally:
            self._event.set()

    async def _queue(self, writer: Writer, first: pb.RunEventBatch, request: pb.RunEventBatch) -> None:
        if request.flow_run != first.flow_run or request.epoch != first.epoch:
            raise BadRequestError([FieldViolation("flow_run", "is another run or epoch than the stream began with")])
        await self._room.acquire()
        self._pending.append(self._service._submit(writer, request))  # noqa: SLF001  # one module, one concept
        self._event.set()

    async def _acknowledge(self, pending: Pending[EventAck]) -> pb.RunEventAck:
        ack = await pending
        self._room.release()
        self._acked = ack.acked_sequence
        self._told = ack.command
        return _answer(ack)

    async def _command(self, writer: Writer) -> pb.RunEventAck | None:
        """What is asked of the run, when the writer was not told yet."""
        try:
            run = await self._backend.store.get_flow_run(writer.run_id)
        except NotFoundError:
            return None
        command = RunCommandKind.NONE
        if run.epoch != writer.epoch:
            command = RunCommandKind.ABANDON
        elif run.state.is_finished:
            # Whoever finished it by its own event knows; `FORGET` comes with the answer to its next batch.
            command = self._told
        elif run.cancel_requested:
            command = RunCommandKind.CANCEL
        if command in {RunCommandKind.NONE, self._told}:
            return None
        self._told = command
        return _answer(EventAck(self._acked, command, self._backend.store.incarnation))


def _answer(ack: EventAck) -> pb.RunEventAck:
    return pb.RunEventAck(
        acked_sequence=ack.acked_sequence,
        incarnation=ack.incarnation,
        lease=_LEASE,
        command=convert.enum(ack.command.value),
    )


def _events(request: pb.RunEventBatch) -> tuple[Event, ...]:
    """The events of a batch as records."""
    if len(request.events) > MAX_EVENTS:
        raise ResourceExhaustedError(f"a batch holds at most {MAX_EVENTS:,} events")
    if request.events and not request.first_sequence:
        raise BadRequestError([FieldViolation("first_sequence", "is not set")])
    events: list[Event] = []
    for index, event in enumerate(request.events):
        if event.HasField("task_run"):
            task = event.task_run
            time_micros, state = task.time_unix_micros, task.state
            events.append(
                TaskEvent(
                    task.task,
                    task.map_index if task.HasField("map_index") else -1,
                    state,
                    time_micros,
                    task.run_count,
                    task.child_count,
                    task.result_stored,
                    task.failure.SerializeToString() if task.HasField("failure") else b"",
                )
            )
        elif event.HasField("flow_run"):
            flow = event.flow_run
            time_micros, state = flow.time_unix_micros, flow.state
            failure = flow.failure.SerializeToString() if flow.HasField("failure") else b""
            events.append(FlowEvent(state, time_micros, failure))
        else:
            raise BadRequestError([FieldViolation(f"events[{index}]", "has no kind")])
        if state == states_pb2.STATE_UNSPECIFIED or not 0 < time_micros <= convert.LATEST_MICROS:
            raise BadRequestError(
                [FieldViolation(f"events[{index}]", "has no state, or no time of years 1970 to 9999")]
            )
    return tuple(events)
