"""Records of the store as messages of the API."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heliograph.api.v1 import (
    agent_service_pb2 as agents_pb,
)
from heliograph.api.v1 import (
    flow_run_service_pb2 as runs_pb,
)
from heliograph.api.v1 import (
    flow_service_pb2 as flows_pb,
)
from heliograph.api.v1 import (
    log_service_pb2 as logs_pb,
)
from heliograph.api.v1 import (
    project_service_pb2 as projects_pb,
)
from heliograph.api.v1 import (
    schedule_service_pb2 as schedules_pb,
)
from heliograph.api.v1 import (
    states_pb2,
)
from heliograph.api.v1 import (
    task_run_service_pb2 as tasks_pb,
)
from heliograph.api.v1 import (
    token_service_pb2 as tokens_pb,
)
from heliograph_control_plane.store import records

MICROS = 1_000_000
LATEST_MICROS = 253_402_300_799 * MICROS
"""The last second that a message's time can tell: the end of the year 9999."""


def timestamp(micros: int) -> Timestamp | None:
    """A time as a message; None, which leaves the field unset, for 0."""
    if not micros:
        return None
    seconds, rest = divmod(micros, MICROS)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def micros_of(time: Timestamp) -> int:
    """A message's time in microseconds."""
    return int(time.seconds * MICROS + time.nanos // 1_000)


def duration(micros: int) -> Duration:
    """A duration as a message."""
    seconds, rest = divmod(micros, MICROS)
    return Duration(seconds=seconds, nanos=rest * 1_000)


def duration_micros(value: Duration) -> int:
    """A message's duration in microseconds."""
    return int(value.seconds * MICROS + value.nanos // 1_000)


def failure(data: bytes) -> states_pb2.Failure | None:
    """A stored failure."""
    return states_pb2.Failure.FromString(data) if data else None


def project(record: records.Project) -> projects_pb.Project:
    """A project."""
    return projects_pb.Project(
        name=f"projects/{record.name}",
        description=record.description,
        create_time=timestamp(record.create_micros),
        flow_count=record.flow_count,
    )


def schedule(record: records.Schedule, next_micros: int = 0) -> schedules_pb.Schedule:
    """A schedule. `next_micros`: its next occurrence, 0 for none."""
    return schedules_pb.Schedule(
        name=f"projects/{record.project}/flows/{record.flow}/schedule",
        spec=schedules_pb.ScheduleSpec.FromString(record.spec),
        paused=record.paused,
        next_time=timestamp(next_micros),
    )


def flow(record: records.Flow, schedule_message: schedules_pb.Schedule | None) -> flows_pb.Flow:
    """A flow with its schedule."""
    return flows_pb.Flow(
        name=f"projects/{record.project}/flows/{record.name}",
        latest_version=record.latest_version,
        labels=record.labels,
        create_time=timestamp(record.create_micros),
        update_time=timestamp(record.update_micros),
        schedule=schedule_message,
    )


def flow_version(record: records.FlowVersion, *, tasks: bool = True) -> flows_pb.FlowVersion:
    """A flow version. `tasks=False` leaves tasks and edges of the graph out: an agent needs neither."""
    if not tasks:
        return _without_tasks(record)
    return _flow_version(record, flows_pb.Graph.FromString(record.graph) if record.graph else None)


@lru_cache(maxsize=32)
def _without_tasks(record: records.FlowVersion) -> flows_pb.FlowVersion:
    """Runs of one version are leased again and again. What is returned goes into answers, which copy it."""
    graph = flows_pb.Graph.FromString(record.graph) if record.graph else None
    if graph is not None:
        for name in ("tasks", "edges", "reference_tasks"):
            graph.ClearField(name)
    return _flow_version(record, graph)


def _flow_version(record: records.FlowVersion, graph: flows_pb.Graph | None) -> flows_pb.FlowVersion:
    return flows_pb.FlowVersion(
        name=f"projects/{record.project}/flows/{record.flow}/versions/{record.version}",
        version=record.version,
        content_hash=record.content_hash,
        graph=graph,
        bundle=flows_pb.BundleReference.FromString(record.bundle),
        launch=flows_pb.LaunchSummary.FromString(record.launch),
        create_time=timestamp(record.create_micros),
        created_by=record.created_by,
        schedule=schedules_pb.ScheduleSpec.FromString(record.schedule) if record.schedule else None,
    )


def flow_run(record: records.FlowRun) -> runs_pb.FlowRun:
    """A run."""
    message = runs_pb.FlowRun(
        name=f"projects/{record.project}/flowRuns/{record.run_id}",
        run_name=record.run_name,
        flow_version=f"projects/{record.project}/flows/{record.flow}/versions/{record.version}",
        state=state(record.state),
        state_time=timestamp(record.state_micros),
        parameters_json=record.parameters_json,
        labels=record.labels,
        create_time=timestamp(record.create_micros),
        scheduled_time=timestamp(record.scheduled_micros),
        start_time=timestamp(record.start_micros),
        end_time=timestamp(record.end_micros),
        created_by=record.created_by,
        attempt=record.attempt,
        epoch=record.epoch,
        agent=f"agents/{record.agent}" if record.agent else "",
        failure=failure(record.failure),
        last_sequence=record.last_sequence,
        lost=record.lost,
        missing_events=record.missing_events,
        task_run_counts=[runs_pb.StateCount(state=state(code), count=count) for code, count in record.counts],
        cancel_requested=record.cancel_requested,
    )
    if record.late_micros > 0:
        message.lateness.CopyFrom(duration(record.late_micros))
    return message


def flow_run_state(record: records.FlowRunStateRecord) -> runs_pb.FlowRunStateRecord:
    """One state of a run's history."""
    return runs_pb.FlowRunStateRecord(
        ordinal=record.ordinal,
        state=state(record.state),
        time=timestamp(record.time_micros),
        receive_time=timestamp(record.receive_micros),
        set_by=record.set_by,
        epoch=record.epoch,
        failure=failure(record.failure),
    )


def task_run(record: records.TaskRun, project_name: str, slugs: tuple[str, ...]) -> tasks_pb.TaskRun:
    """A task run. `slugs`: of the tasks of its flow version."""
    suffix = "" if record.map_index is None else f".{record.map_index}"
    return tasks_pb.TaskRun(
        name=f"projects/{project_name}/flowRuns/{record.run_id}/taskRuns/{record.task}{suffix}",
        task=record.task,
        task_slug=slugs[record.task] if record.task < len(slugs) else "",
        map_index=record.map_index,
        state=state(record.state),
        state_time=timestamp(record.state_micros),
        start_time=timestamp(record.start_micros),
        end_time=timestamp(record.end_micros),
        run_count=record.run_count,
        failure=failure(record.failure),
        child_count=record.child_count,
        last_sequence=record.last_sequence,
        result_stored=record.result_stored,
    )


def task_run_state(record: records.TaskRunStateRecord) -> tasks_pb.TaskRunStateRecord:
    """One state of a task run's history."""
    return tasks_pb.TaskRunStateRecord(
        sequence=record.sequence,
        task=record.task,
        map_index=record.map_index,
        state=state(record.state),
        time=timestamp(record.time_micros),
        run_count=record.run_count,
        epoch=record.epoch,
    )


def agent(record: records.Agent) -> agents_pb.Agent:
    """An agent."""
    return agents_pb.Agent(
        name=f"agents/{record.name}",
        launcher=record.launcher,
        labels=record.labels,
        version=record.version,
        host=record.host,
        capacity=record.capacity,
        running=record.running,
        create_time=timestamp(record.create_micros),
        last_seen_time=timestamp(record.last_seen_micros),
        online=record.online,
        draining=record.draining,
    )


def token(record: records.Token) -> tokens_pb.Token:
    """A token, without its secret."""
    return tokens_pb.Token(
        name=f"tokens/{record.token_id}",
        principal=record.principal,
        roles=[enum(role) for role in record.roles],
        projects=[f"projects/{name}" for name in record.projects],
        create_time=timestamp(record.create_micros),
        expire_time=timestamp(record.expire_micros),
        last_used_time=timestamp(record.last_used_micros),
        revoke_time=timestamp(record.revoke_micros),
        created_by=record.created_by,
    )


def log_entry(line: records.LogLine) -> logs_pb.LogEntry:
    """A log line."""
    return logs_pb.LogEntry(
        sequence=line.sequence,
        time_unix_micros=line.time_micros,
        level=enum(line.level),
        logger=line.logger,
        message=line.message,
        task=line.task if line.task >= 0 else None,
        map_index=line.map_index if line.map_index >= 0 else None,
        dropped_before=line.dropped_before,
        epoch=line.epoch,
    )


def state(code: int) -> states_pb2.State.ValueType:
    """The API's number of a state: the same number."""
    return cast("states_pb2.State.ValueType", int(code))


def enum(number: int) -> Any:
    """A stored number as a value of any enum: the type checker cannot tell their numbers apart."""
    return number
