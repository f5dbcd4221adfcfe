"""What goes into the store and comes out of it: frozen records in domain words.

Times are whole microseconds since 1970-01-01T00:00:00Z (`*_micros`); 0 means "not set" unless a field says otherwise.
Messages that the store only keeps for others (`graph`, `bundle`, `launch`, `schedule`, `failure`) are serialised
`heliograph.api.v1` messages in bytes; empty bytes mean "not set".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from heliograph.engine.codes import StateCode

T = TypeVar("T")

Scope: TypeAlias = frozenset[str] | None
"""Names of the projects that the caller may see; None means all of them."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing. `next_token` is empty on the last one."""

    items: tuple[T, ...]
    next_token: str = ""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Identity of one intent of one client.

    Attributes:
        scope: Whose id it is and for which method (`CreateFlowRun/users/ann`): ids of others never match.
        request_id: Made by the client.
        fingerprint: Digest of the request's content; the same id with another one raises `RequestIdReusedError`.
    """

    scope: str
    request_id: str
    fingerprint: bytes


# --- projects and flows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Project:
    """A namespace of flows. `name` is the bare name, without `projects/`."""

    name: str
    description: str
    create_micros: int
    flow_count: int = 0


@dataclass(frozen=True, slots=True)
class Requirement:
    """What an agent must offer to take a run. An empty `launcher` or `host` means any."""

    project: str
    launcher: str
    host: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewFlowVersion:
    """A flow's content as it is registered.

    Attributes:
        content_hash: Digest of all content; equal to the newest version's means "nothing changed".
        graph: `Graph`.
        bundle: `BundleReference`.
        launch: `LaunchSummary`.
        schedule: `ScheduleSpec`; empty means no schedule.
        labels: As in `launch`, sorted by the store.
        launcher: As in `launch`.
        host: As in `bundle`.
    """

    project: str
    flow: str
    content_hash: str
    graph: bytes
    bundle: bytes
    launch: bytes
    schedule: bytes
    labels: tuple[str, ...]
    launcher: str
    host: str
    created_by: str
    schedule_paused: bool = False


@dataclass(frozen=True, slots=True)
class FlowVersion:
    """One registered content. Listings leave `graph` empty."""

    project: str
    flow: str
    version: int
    content_hash: str
    graph: bytes
    bundle: bytes
    launch: bytes
    schedule: bytes
    labels: tuple[str, ...]
    launcher: str
    host: str
    create_micros: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Registered:
    """Answer to a registration: the version that has the content, and whether this call made it."""

    version: FlowVersion
    created: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of a flow's newest version.

    Attributes:
        schedule_id: Stays the same over re-registrations of the flow.
        version: Number of the flow version that it came with.
        spec: `ScheduleSpec`.
        active_since_micros: When it was registered or resumed: no occurrence before is ever made.
        quarantine: Why the scheduler leaves it alone; empty when it does not.
    """

    schedule_id: int
    project: str
    flow: str
    version: int
    spec: bytes
    paused: bool
    active_since_micros: int
    quarantine: str = ""


@dataclass(frozen=True, slots=True)
class Flow:
    """A registered flow with its newest version's number and labels."""

    project: str
    name: str
    latest_version: int
    labels: tuple[str, ...]
    create_micros: int
    update_micros: int
    schedule: Schedule | None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time at which a schedule makes a run.

    Attributes:
        schedule_id: The schedule.
        version: Version of the flow that the schedule was read with; the occurrence is left out when it changed.
        run_id: Id of the run, derived from the occurrence (`domain.scheduling`), so that it exists at most once.
        key: The occurrence: clock, wall slot, fold.
        scheduled_micros: When the run should start.
        parameters_json: Values of parameters: a JSON object.
        labels: Labels in place of the version's; None keeps them.
    """

    schedule_id: int
    version: int
    run_id: str
    key: str
    scheduled_micros: int
    run_name: str
    parameters_json: str = "{}"
    labels: tuple[str, ...] | None = None


# --- runs -----------------------------------------------------------------------------------------------------------


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


# --- events ---------------------------------------------------------------------------------------------------------


class TaskEvent(NamedTuple):
    """A task run entered a state. `map_index` is -1 for what is not a child of a map."""

    task: int
    map_index: int
    state: int
    time_micros: int
    run_count: int
    child_count: int = 0
    result_stored: bool = False
    failure: bytes = b""


class FlowEvent(NamedTuple):
    """The flow run entered a state."""

    state: int
    time_micros: int
    failure: bytes = b""


Event: TypeAlias = TaskEvent | FlowEvent


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of one writer (run, epoch), in order. Without events it only renews the lease.

    Attributes:
        first_sequence: Sequence of the first event, from 1.
        incarnation: The store that the writer last heard from; empty before its first answer.
        hole_from_sequence: The writer no longer has the events from here up to `first_sequence`; 0 means none.
        agent: Name of the agent that reports for a run whose supervisor died; empty for the run itself.
    """

    run_id: str
    epoch: int
    first_sequence: int
    events: tuple[Event, ...] = ()
    incarnation: str = ""
    hole_from_sequence: int = 0
    agent: str = ""


class RunCommandKind(IntEnum):
    """What to do with a run; numbers of `heliograph.api.v1.Command`."""

    NONE = 0
    CANCEL = 1
    ABANDON = 2
    FORGET = 3
    CONNECTED = 4
    ACCEPT = 5


@dataclass(frozen=True, slots=True)
class EventAck:
    """All events up to `acked_sequence` are committed."""

    acked_sequence: int
    command: RunCommandKind
    incarnation: str


# --- agents and leases ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent says of itself. Empty `projects` means all of them; `owner` is the principal of its token."""

    name: str
    launcher: str
    labels: tuple[str, ...]
    version: str
    host: str
    capacity: int
    projects: tuple[str, ...] = ()
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Agent:
    """A registered agent. `online` is computed by the reader's clock."""

    name: str
    launcher: str
    labels: tuple[str, ...]
    version: str
    host: str
    capacity: int
    projects: tuple[str, ...]
    running: int
    draining: bool
    create_micros: int
    last_seen_micros: int
    online: bool
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute one attempt of a run, not accepted yet."""

    flow_run: FlowRun
    flow_version: FlowVersion
    epoch: int
    attempt: int
    expire_micros: int


class Spent(tuple[Lease, ...]):
    """No leases, and none to come: the request was given some before, and none of them lives unaccepted any more."""


@dataclass(frozen=True, slots=True)
class HeldRun:
    """One run that an agent has.

    Attributes:
        run_id: The run.
        epoch: Its epoch.
        renew: Its supervisor has not been heard of yet.
        project: Where the agent says that the run is; empty means anywhere.
    """

    run_id: str
    epoch: int
    renew: bool
    project: str = ""


@dataclass(frozen=True, slots=True)
class RunCommand:
    """What an agent should do with one of its runs."""

    run_id: str
    epoch: int
    command: RunCommandKind


@dataclass(frozen=True, slots=True)
class Upcoming:
    """Runs of one requirement: when the first of them is, or was, due."""

    requirement: Requirement
    ready_micros: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one pass of the reaper did: run ids by outcome."""

    requeued: tuple[str, ...] = ()
    crashed: tuple[str, ...] = ()
    more: bool = False


# --- tokens ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to issue.

    Attributes:
        principal: `users/{user}` or `services/{service}`.
        roles: Numbers of `heliograph.api.v1.Role`.
        projects: Bare names; empty means all.
        secret_hash: SHA-256 of the secret; the store never sees the secret.
        expire_micros: 0 means never.
    """

    principal: str
    roles: tuple[int, ...]
    projects: tuple[str, ...]
    secret_hash: bytes
    expire_micros: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Token:
    """A credential of a named user or service, without its secret."""

    token_id: str
    principal: str
    roles: tuple[int, ...]
    projects: tuple[str, ...]
    create_micros: int
    expire_micros: int
    last_used_micros: int
    revoke_micros: int
    created_by: str


@dataclass(frozen=True, slots=True)
class RunPrincipal:
    """What a run token stands for.

    Attributes:
        epoch: The epoch that the token is bound to.
        ended: The run is finished or leased anew: only reports (which the epoch fences, and which may repeat the last
            batch) and late log lines are welcome, for 10 minutes; nothing else may be done with the token.
    """

    run_id: str
    project: str
    epoch: int
    ended: bool


# --- logs -----------------------------------------------------------------------------------------------------------


class LogLine(NamedTuple):
    """One line. `task` and `map_index` are -1 when not set; `epoch` is filled in when lines are read."""

    sequence: int
    time_micros: int
    level: int
    logger: str
    message: str
    task: int = -1
    map_index: int = -1
    dropped_before: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class LogAck:
    """All lines up to `acked_sequence` are stored, or refused for good because the run's quota is used up."""

    acked_sequence: int
    refused: int


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines in the order of their arrival. `cursor` goes on after them, also at the end; `more`: there are more now."""

    lines: tuple[LogLine, ...]
    cursor: str
    more: bool


# --- changes and the rest -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit changed, told to subscribers right after it.

    Attributes:
        runs: Ids of runs that were created or changed.
        tasks: Ids of runs whose task runs changed.
        logs: Ids of runs with new log lines.
        ready: Runs that became claimable, by requirement, with the time of the first.
        tokens: True when a token was issued, replaced or revoked.
        schedules: True when a schedule was made, changed, paused or resumed.
    """

    runs: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    logs: frozenset[str] = frozenset()
    ready: tuple[Upcoming, ...] = ()
    tokens: bool = False
    schedules: bool = False


Subscriber: TypeAlias = Callable[[Changes], None]


@dataclass(frozen=True, slots=True)
class Leadership:
    """The right to run the loops that only one control plane may run, until `expire_micros` of the store's clock."""

    holder: str
    term: int
    expire_micros: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that could not be worked with and is left alone until someone looks at it."""

    kind: str
    key: str
    reason: str
    time_micros: int
