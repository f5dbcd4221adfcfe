"""What of a flow may cross: its graph and its clocks as API messages. No default, constant, docstring or code."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from heliograph.api.v1 import flow_service_pb2, schedule_service_pb2
from heliograph.exceptions import FlowError

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from heliograph.engine.graph import Graph


def graph_to_proto(graph: Graph) -> flow_service_pb2.Graph:
    """Describes the declared graph. An index into its tasks means a task everywhere else."""
    return flow_service_pb2.Graph(
        tasks=[
            _task_to_proto(slug, task, mapped)
            for slug, task, mapped in zip(graph.slugs, graph.tasks, graph.mapped, strict=True)
        ],
        edges=[
            flow_service_pb2.EdgeSpec(
                upstream=edge.upstream,
                downstream=downstream,
                key=edge.key or "",
                mapped=edge.mapped,
                flattened=edge.flattened,
            )
            for downstream, inputs in enumerate(graph.inputs)
            for edge in inputs
        ],
        parameters=[
            flow_service_pb2.ParameterSpec(
                name=name,
                required=name in graph.required_parameters,
                has_default=name not in graph.required_parameters,
            )
            for name in sorted(graph.parameters)
        ],
        reference_tasks=graph.reference_tasks,
        graph_hash=graph.graph_hash(),
    )


def schedule_to_proto(schedule: Any) -> schedule_service_pb2.ScheduleSpec | None:
    """Describes the clocks of a schedule; None when there is none.

    Raises:
        FlowError: The schedule has filters or adjustments, which are functions of the user's and do not cross.
    """
    if schedule is None or not schedule.clocks:
        return None
    for kind in ("filters", "or_filters", "not_filters", "adjustments"):
        if getattr(schedule, kind, None):
            raise FlowError(
                f"the schedule has {kind.replace('_', ' ')}, which the control plane cannot evaluate",
                hint="say it in the clock (a cron expression, dates), or check the day in a first task that skips",
            )
    return schedule_service_pb2.ScheduleSpec(clocks=[_clock_to_proto(clock) for clock in schedule.clocks])


def _task_to_proto(slug: str, task: Any, mapped: bool) -> flow_service_pb2.TaskSpec:
    spec = flow_service_pb2.TaskSpec(
        slug=slug,
        name=task.name,
        task_class=f"{type(task).__module__}.{type(task).__qualname__}",
        tags=sorted(task.tags),
        trigger=getattr(task.trigger, "__name__", type(task.trigger).__name__),
        max_retries=int(task.max_retries or 0),
        mapped=mapped,
    )
    _set_duration(spec.retry_delay, task.retry_delay)
    _set_duration(spec.timeout, task.timeout)
    return spec


def _set_duration(target: Duration, value: timedelta | float | None) -> None:
    """Sets a duration from a timedelta or seconds; leaves it unset for None and 0."""
    if value:
        target.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=float(value)))


def _clock_to_proto(clock: Any) -> schedule_service_pb2.Clock:
    from heliograph.schedules.clocks import CronClock, DatesClock, IntervalClock

    message = schedule_service_pb2.Clock(labels=list(clock.labels or ()), override_labels=clock.labels is not None)
    if clock.parameter_defaults:
        message.parameter_defaults_json = json.dumps(clock.parameter_defaults, allow_nan=False)
    if isinstance(clock, CronClock):
        message.cron.cron = clock.cron
        message.cron.timezone = _zone_name(clock.start_date)
        message.cron.day_and = not clock.day_or
    elif isinstance(clock, IntervalClock):
        message.interval.interval_micros = clock.interval // timedelta(microseconds=1)
        message.interval.timezone = _zone_name(clock.start_date)
        if clock.start_date is not None:
            message.interval.anchor_time.FromDatetime(clock.start_date)
    elif isinstance(clock, DatesClock):
        for time in clock.dates:
            message.dates.times.add().FromDatetime(time)
        return message
    else:
        raise FlowError(
            f"the control plane does not know clocks of the class {type(clock).__qualname__}",
            hint="use CronClock, IntervalClock or DatesClock",
        )
    if clock.start_date is not None:
        message.start_time.FromDatetime(clock.start_date)
    if clock.end_date is not None:
        message.end_time.FromDatetime(clock.end_date)
    return message


def _zone_name(time: datetime | None) -> str:
    """Returns the IANA name of a time's zone, empty for UTC and for none.

    Raises:
        FlowError: The zone has no IANA name: its rules could not be told.
    """
    zone = time.tzinfo if time is not None else None
    if zone is None:
        return ""
    name = getattr(zone, "key", None) or getattr(zone, "name", None)
    if isinstance(name, str):
        return "" if name in ("UTC", "Etc/UTC") else name
    assert time is not None
    if time.utcoffset() == timedelta(0):
        return ""
    raise FlowError(
        f"the start date of a clock has a fixed offset ({time.isoformat()}), not a time zone",
        hint='use zoneinfo, for example datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))',
    )
