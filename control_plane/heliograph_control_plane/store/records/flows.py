"""Projects, flows, their versions and schedules."""

from __future__ import annotations

from dataclasses import dataclass


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
