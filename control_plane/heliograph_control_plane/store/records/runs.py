"""Flow runs and task runs: created, as they are now, and as they were."""

from __future__ import annotations

from dataclasses import dataclass

from heliograph.engine.codes import StateCode
from heliograph_control_plane.store.records.common import Scope


@dataclass(frozen=True, slots=True)
class NewFlowRun:
    """A run to create.

    Attributes:
        version: Number of the flow version; 0 means the newest.
        labels: Labels in place of the version's; None keeps them.
        scheduled_micros: When to start; 0 means now.
    """

    run_id: str
    project: str
    flow: str
    version: int
    run_name: str
    parameters_json: str
    labels: tuple[str, ...] | None
    scheduled_micros: int
    created_by: str


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A run as it is now. Lateness and loss are computed by the reader's clock, never stored.

    Attributes:
        run_id: UUID text.
        state: Its state.
        counts: Number of task runs by state.
        lost: Nothing was heard of it for longer than its lease.
        presumed_dead: It is Crashed because nothing was heard of it, without proof: its own late end still counts.
        late_micros: How long past its scheduled time it is without having started.
        heard_micros: When its writer or its agent last vouched for it.
        ready_micros: From when on it is given out; 0 for a run that does not wait in the queue.
        launch_delay: Why it has not started although an agent took it: number of a launch delay, 0 for none.
        put_backs: How often agents have put it back without having launched it.
    """

    run_id: str
    run_name: str
    project: str
    flow: str
    version: int
    state: StateCode
    state_micros: int
    parameters_json: str
    labels: tuple[str, ...]
    launcher: str
    host: str
    create_micros: int
    scheduled_micros: int
    start_micros: int
    end_micros: int
    created_by: str
    attempt: int
    epoch: int
    agent: str
    failure: bytes
    last_sequence: int
    lost: bool
    presumed_dead: bool
    late_micros: int
    missing_events: int
    counts: tuple[tuple[StateCode, int], ...]
    cancel_requested: bool
    heard_micros: int
    ready_micros: int = 0
    launch_delay: int = 0
    put_backs: int = 0


@dataclass(frozen=True, slots=True)
class FlowRunStateRecord:
    """One state that a run went through. `set_by`: `agents/…`, `users/…`, `services/…`, `control-plane`, `run`."""

    ordinal: int
    state: StateCode
    time_micros: int
    receive_micros: int
    set_by: str
    epoch: int
    failure: bytes


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One execution of a task. `map_index` is None for what is not a child of a map."""

    run_id: str
    task: int
    map_index: int | None
    state: StateCode
    state_micros: int
    start_micros: int
    end_micros: int
    run_count: int
    failure: bytes
    child_count: int
    last_sequence: int
    result_stored: bool


@dataclass(frozen=True, slots=True)
class TaskRunStateRecord:
    """One state that a task run went through."""

    sequence: int
    task: int
    map_index: int | None
    state: StateCode
    time_micros: int
    run_count: int
    epoch: int


@dataclass(frozen=True, slots=True)
class FlowRunQuery:
    """Which runs to list, newest first.

    Attributes:
        project: Only this project; empty means all of `scope`.
        flow: Only this flow of the project.
        states: Only these states; empty means any.
        prefix: Only runs whose id or run name starts so.
    """

    project: str = ""
    flow: str = ""
    states: tuple[StateCode, ...] = ()
    prefix: str = ""
    scope: Scope = None
    page_size: int = 100
    page_token: str = ""
