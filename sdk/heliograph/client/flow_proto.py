"""What of a flow may cross: its graph and its clocks as API messages. No default, constant, docstring or code."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from heliograph.api.v1 import flow_service_pb2, schedule_service_pb2
from heliograph.client.refs import encode_parameters

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from heliograph.engine.graph import Graph
    from heliograph.schedules import Schedule
    from heliograph.schedules.clocks import Clock


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


def schedule_to_proto(schedule: Schedule | None) -> schedule_service_pb2.ScheduleSpec | None:
    """Describes the clocks of a schedule; None when there is none.

    Raises:
        InvalidArgumentError: Parameter defaults of a clock are no JSON.
    """
    if schedule is None or not schedule.clocks:
        return None
    return schedule_service_pb2.ScheduleSpec(clocks=[_clock_to_proto(clock) for clock in schedule.clocks])


def _task_to_proto(slug: str, task: Any, mapped: bool) -> flow_service_pb2.TaskSpec:
    spec = flow_service_pb2.TaskSpec(
        slug=slug,
        name=task.crossing_name,
        task_class=_plain(f"{type(task).__module__}.{type(task).__qualname__}"),
        tags=sorted(task.tags),
        trigger=_plain(getattr(task.trigger, "__name__", type(task.trigger).__name__)),
        max_retries=int(task.max_retries or 0),
        mapped=mapped,
    )
    _set_duration(spec.retry_delay, task.retry_delay)
    _set_duration(spec.timeout, task.timeout)
    return spec


def _plain(path: str) -> str:
    """Python's `<locals>` and `<lambda>` without the signs that no name may have."""
    return path.replace("<", "").replace(">", "")


def _set_duration(target: Duration, value: timedelta | float | None) -> None:
    """Sets a duration from a timedelta or seconds; leaves it unset for None and 0."""
    if value:
        target.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=float(value)))


def _clock_to_proto(clock: Clock) -> schedule_service_pb2.Clock:
    from heliograph.schedules.expansion import CronSpec, DatesSpec, IntervalSpec

    message = schedule_service_pb2.Clock(labels=clock.labels or (), override_labels=clock.labels is not None)
    if clock.parameter_defaults:
        message.parameter_defaults_json = encode_parameters(clock.parameter_defaults)
    spec = clock.spec
    match spec:
        case CronSpec():
            message.cron.cron = spec.cron
            message.cron.timezone = spec.timezone
            message.cron.day_and = not spec.day_or
        case IntervalSpec():
            message.interval.interval_micros = spec.interval // timedelta(microseconds=1)
            message.interval.anchor_time.FromDatetime(spec.anchor)
            message.interval.timezone = spec.timezone
        case DatesSpec():
            for time in spec.times:
                message.dates.times.add().FromDatetime(time)
    if spec.start is not None:
        message.start_time.FromDatetime(spec.start)
    if spec.end is not None:
        message.end_time.FromDatetime(spec.end)
    return message
