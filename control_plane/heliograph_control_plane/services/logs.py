"""LogService: log lines of runs, written in batches, listed in pages, tailed live."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from heliograph.api.contract import FieldViolation
from heliograph.api.v1 import log_service_pb2 as pb
from heliograph.api.v1 import log_service_pb2_grpc
from heliograph.engine.codes import StateCode
from heliograph.exceptions import LeaseLostError, ResourceExhaustedError
from heliograph_control_plane.errors import BadRequestError
from heliograph_control_plane.store.records import LogLine
from heliograph_control_plane.wakeups import SLOW_POLL_SECONDS

from . import convert
from .backend import MAX_ANSWER_BYTES, Backend
from .reporting import writer_of

MAX_LINES = 1_000
MAX_BATCH_BYTES = 256 * 1024
QUIET_SECONDS = 1.0
"""A tail of a run that was ended from outside ends when no line came for so long: its last lines are on their way."""
SHORT_QUIET_SECONDS = 0.1
"""The same when the run told its end itself: a writer sends the lines first."""

_AT_ONCE = 200


class LogService(log_service_pb2_grpc.LogServiceServicer):
    """Answers LogService."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store

    async def WriteLogEntries(self, request: pb.WriteLogEntriesRequest, context: Any) -> pb.WriteLogEntriesResponse:
        """See the API."""
        writer = await writer_of(self._backend, request)
        if writer.agent and writer.epoch > (await self._backend.visible_run("flow_run", request.flow_run)).epoch:
            raise LeaseLostError("the run has another lease, or none")
        ack = await self._store.write_log_lines(writer.run_id, writer.epoch, _lines(request))
        return pb.WriteLogEntriesResponse(acked_sequence=ack.acked_sequence, refused=ack.refused)

    async def ListLogEntries(self, request: pb.ListLogEntriesRequest, context: Any) -> pb.ListLogEntriesResponse:
        """See the API."""
        run = await self._backend.visible_run("parent", request.parent)
        wanted = min(request.page_size or 1_000, 5_000)
        answer = pb.ListLogEntriesResponse()
        cursor, size = request.page_token, 0
        while True:
            page = await self._store.read_log_lines(
                run.run_id, cursor, min(_AT_ONCE, wanted - len(answer.entries)), request.min_level
            )
            cursor = page.cursor
            entries = [convert.log_entry(line) for line in page.lines]
            answer.entries.extend(entries)
            size += sum(entry.ByteSize() for entry in entries)
            if not page.more:
                return answer
            if len(answer.entries) >= wanted or size > MAX_ANSWER_BYTES:
                answer.next_page_token = cursor
                return answer

    async def TailLogEntries(
        self, request: pb.TailLogEntriesRequest, context: Any
    ) -> AsyncIterator[pb.TailLogEntriesResponse]:
        """See the API."""
        run = await self._backend.visible_run("parent", request.parent)
        after = convert.micros_of(request.after_time) if request.HasField("after_time") else 0
        wakeups = self._backend.wakeups
        cursor = ""
        with wakeups.listen([run.run_id]) as listener:
            finished, quiet = False, QUIET_SECONDS
            while True:
                listener.take()
                # The state is read before the lines: lines that came before the end are never missed.
                if not finished:
                    state = (await self._store.get_flow_run(run.run_id)).state
                    finished = state.is_finished
                    told = finished and state not in (StateCode.CRASHED, StateCode.CANCELLED)
                    quiet = SHORT_QUIET_SECONDS if told else QUIET_SECONDS
                page = await self._store.read_log_lines(run.run_id, cursor, _AT_ONCE, request.min_level, after)
                cursor = page.cursor
                if page.lines:
                    yield pb.TailLogEntriesResponse(entries=[convert.log_entry(line) for line in page.lines])
                if page.more:
                    continue
                if wakeups.stopping.is_set():
                    return
                await listener.wait(quiet if finished else SLOW_POLL_SECONDS)
                if finished and not listener.event.is_set():
                    return


def _lines(request: pb.WriteLogEntriesRequest) -> list[LogLine]:
    if len(request.entries) > MAX_LINES:
        raise ResourceExhaustedError(f"a batch holds at most {MAX_LINES:,} lines")
    if request.ByteSize() > MAX_BATCH_BYTES:
        raise ResourceExhaustedError(f"a batch holds at most {MAX_BATCH_BYTES:,} bytes")
    lines = []
    before = 0
    for index, entry in enumerate(request.entries):
        if entry.sequence <= before:
            raise BadRequestError([FieldViolation(f"entries[{index}].sequence", "does not rise")])
        if not 0 <= entry.time_unix_micros <= convert.LATEST_MICROS:
            raise BadRequestError(
                [FieldViolation(f"entries[{index}].time_unix_micros", "is not a time of 1970 to 9999")]
            )
        before = entry.sequence
        lines.append(
            LogLine(
                entry.sequence,
                entry.time_unix_micros,
                entry.level,
                entry.logger,
                entry.message,
                entry.task if entry.HasField("task") else -1,
                entry.map_index if entry.HasField("map_index") else -1,
                entry.dropped_before,
            )
        )
    return lines
