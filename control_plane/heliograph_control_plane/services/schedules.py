"""ScheduleService: schedules are seen, paused and resumed; they come with the registration of their flow."""

from __future__ import annotations

from typing import Any

from heliograph.api.v1 import schedule_service_pb2 as pb
from heliograph.api.v1 import schedule_service_pb2_grpc
from heliograph.exceptions import InvalidArgumentError, NotFoundError
from heliograph_control_plane.store.records import Schedule

from . import convert, names
from .backend import Backend, gather, own_project, page_size
from .clocks import next_times
from .reach import reach

DEFAULT_PREVIEW = 10
MAX_PREVIEW = 100

_MAX_KNOWN = 10_000
_next_known: dict[tuple[int, int, int, bytes], int] = {}


class ScheduleService(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Answers ScheduleService."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.Schedule:
        """See the API."""
        return self._message(await self._store.get_schedule(*_flow(request.name)))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        """See the API."""
        project, scope = reach("parent", request.parent)
        schedules, token = await gather(
            lambda size, after: self._store.list_schedules(project, scope, size, after),
            self._message,
            page_size(request.page_size),
            request.page_token,
            at_once=8,
        )
        return pb.ListSchedulesResponse(schedules=schedules, next_page_token=token)

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.Schedule:
        """See the API."""
        return self._message(await self._store.set_schedule_paused(*_flow(request.name), paused=True))

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> pb.Schedule:
        """See the API."""
        return self._message(await self._store.set_schedule_paused(*_flow(request.name), paused=False))

    async def PreviewSchedule(self, request: pb.PreviewScheduleRequest, context: Any) -> pb.PreviewScheduleResponse:
        """See the API."""
        schedule = await self._store.get_schedule(*_flow(request.name))
        count = min(request.count or DEFAULT_PREVIEW, MAX_PREVIEW)
        times = next_times(schedule, self._store.now(), count)
        return pb.PreviewScheduleResponse(times=[time for micros in times if (time := convert.timestamp(micros))])

    def _message(self, record: Schedule) -> pb.Schedule:
        return schedule_message(record, self._store.now())


def schedule_message(record: Schedule, now_micros: int) -> pb.Schedule:
    """A schedule with its next occurrence; one that is paused or cannot be expanded has none."""
    idle = record.paused or record.quarantine
    return convert.schedule(record, 0 if idle else _next_time(record, now_micros))


def _next_time(record: Schedule, now_micros: int) -> int:
    """The next occurrence, 0 when there is none. Remembered until its time has come: lists show many of them."""
    key = (record.schedule_id, record.version, record.active_since_micros, record.spec)
    known = _next_known.get(key)
    if known is None or (known and known <= now_micros):
        try:
            times = next_times(record, now_micros, 1)
        except InvalidArgumentError:
            # Its zone is gone from this machine, say: the scheduler sets it aside, and lists go on.
            times = []
        known = times[0] if times else 0
        if len(_next_known) >= _MAX_KNOWN:
            _next_known.clear()
        _next_known[key] = known
    return known


def _flow(name: str) -> tuple[str, str]:
    project, flow = names.schedule("name", name)
    try:
        return own_project(project), flow
    except NotFoundError:
        raise NotFoundError("no such schedule") from None
