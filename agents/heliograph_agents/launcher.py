"""The interface of launchers: how an agent starts, watches and stops the infrastructure of one attempt of a run.

A launcher decides nothing about runs: it carries out what the tracker asks for, and says what the infrastructure says.
All methods but `plan` may block on the outside world and are therefore coroutines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph.storage import LaunchSettings


@dataclass(frozen=True, slots=True)
class BundleSpec:
    """Where the flow's bundle is and which bytes it must have: `BundleReference` of the API, and the image.

    `own_launch` is what this agent's own file says of the flow's launch settings. It goes with the attempt to wherever
    its supervisor runs.
    """

    storage: str
    location: str
    digest: str
    launch_digest: str
    pickled: bool
    python_version: str
    host: str
    image: str = ""
    signature_hex: str = ""
    signing_key_id: str = ""
    own_launch: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One attempt of a run, as its supervisor needs to know it. Holds parameters, so it stays on this side.

    Attributes:
        flow_run: `projects/{project}/flowRuns/{id}`.
        flow_version: `projects/{project}/flows/{flow}/versions/{n}`.
        run_name: Name for people.
        epoch: Fencing number.
        attempt: Number of the attempt, from 1.
        parameters_json: A JSON object.
        bundle: The flow's bundle.
        graph_hash: Expected hash of the loaded graph.
        scheduled_time_micros: When the run was due, µs since the epoch; 0 when unknown.
        labels: Labels of the run.
    """

    flow_run: str
    flow_version: str
    run_name: str
    epoch: int
    attempt: int
    parameters_json: str
    bundle: BundleSpec
    graph_hash: str
    scheduled_time_micros: int
    labels: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.flow_run.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What came with an accepted lease.

    Attributes:
        run_token: Bound to the run and its epoch; never printed.
        incarnation: Identity of the control plane's store.
        renew_every_seconds: How often to renew the lease.
    """

    run_token: str = field(repr=False)
    incarnation: str
    renew_every_seconds: float


@dataclass(frozen=True, slots=True)
class Handle:
    """Infrastructure of one attempt. (flow run, epoch) names it.

    Attributes:
        flow_run: `projects/{project}/flowRuns/{id}`.
        epoch: Fencing number of the attempt.
        infrastructure: The launcher's own name for it: a folder, a container id, an ARN.
        start_timeout_seconds: How long it may take until its supervisor is heard of; 0 means the agent's default.
    """

    flow_run: str
    epoch: int
    infrastructure: str
    start_timeout_seconds: float = field(default=0.0, compare=False)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.flow_run.rpartition("/")[2]


class ExitKind(Enum):
    """How the infrastructure of an attempt ended."""

    FINISHED = "finished"
    """The supervisor ended in order; what it had to say was acknowledged."""
    UNSHIPPED = "unshipped"
    """The supervisor ended in order, but could not ship everything: the agent does."""
    DIED = "died"
    """It is gone without having ended in order."""
    NEVER_STARTED = "never started"
    """It was planned, and nothing of it exists."""
    LEASE_LOST = "lease lost"
    """It stopped itself because its lease belongs to another."""


@dataclass(frozen=True, slots=True)
class InfraExit:
    """The end of an attempt's infrastructure, for good.

    Attributes:
        kind: How it ended.
        reason: What to report; None when it ended well or said so itself.
        exit_code: Exit code of the flow process, when it exited.
        signal: Signal that killed the flow process, when one did.
        hint: A sentence for the agent's log.
        time_micros: When it ended, µs since the epoch.
        delay: Why it never started, when that is known.
    """

    kind: ExitKind
    reason: FailureCode | None = None
    exit_code: int | None = None
    signal: int | None = None
    hint: str = ""
    time_micros: int = 0
    delay: LaunchDelay | None = None


class Liveness(Enum):
    """What is there of an attempt that has not ended."""

    STARTING = "starting"
    """It was started, and has not reached the control plane yet: the agent renews its lease."""
    CONNECTED = "connected"
    """Its supervisor renews the lease itself."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why an attempt that was launched has not begun.

    Attributes:
        delay: What the control plane is told.
        hint: The infrastructure's own words, for the agent's log.
    """

    delay: LaunchDelay
    hint: str


class LaunchError(Exception):
    """The infrastructure could not be started, and nothing of it is left.

    Args:
        message: What happened, for the agent's log.
        failure: Set when trying again is of no use: the run crashes with it.
        retry_seconds: Without `failure`: how long the run waits in the queue; 0 means the usual pause.
        no_room: The infrastructure is full or asks for fewer calls, where this run wants to be: that says nothing of
            the agent, whose other runs may have room elsewhere.
        delay: Without `failure`: what the control plane is told of why the run waits.
    """

    def __init__(
        self,
        message: str,
        failure: FailureCode | None = None,
        *,
        retry_seconds: float = 0.0,
        no_room: bool = False,
        delay: LaunchDelay | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.retry_seconds = retry_seconds
        self.no_room = no_room
        self.delay = delay


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What of a plan an agent's policy judges: what would really be started, not what was asked for.

    Attributes:
        image: Container image; empty means none.
        env: Names of the variables that the run config sets.
        mounts: What of the host the run would see: a path, with `:ro` when it cannot write there.
        cpu_millis: Processor share asked for; 0 means not said.
        memory_bytes: Memory asked for; 0 means not said.
        privileged: Rights beyond those of an ordinary container: privileged mode, capabilities, the host's network or
            processes. One word each.
        identities: Service accounts and roles.
        options: Names of the launcher's own options that the run config uses.
        working_dir: Folder on the agent's host in which it starts; empty means the agent's.
        more_images: Images of what runs beside it.
        unlimited: What of `cpu` and `memory` it could take more of than is said above.
    """

    image: str = ""
    env: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    cpu_millis: int = 0
    memory_bytes: int = 0
    privileged: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    working_dir: str = ""
    more_images: tuple[str, ...] = ()
    unlimited: tuple[str, ...] = ()


class Plan(Protocol):
    """What a launcher will start: made without looking at the outside world, so that tests can compare it."""

    @property
    def spec(self) -> RunSpec:
        """The attempt."""

    @property
    def facts(self) -> PlanFacts:
        """What the agent's policy judges."""


class Launcher(Protocol):
    """Starts, watches and stops attempts on one kind of infrastructure."""

    @property
    def kind(self) -> str:
        """`local`, `docker`, `ecs` or `kubernetes`."""

    @property
    def needs_settings(self) -> bool:
        """True when `plan` wants the launch settings, which the agent then fetches and checks before."""

    def plan(self, spec: RunSpec, settings: LaunchSettings | None) -> Plan:
        """Decides what would be started. Pure.

        Args:
            spec: The attempt.
            settings: What its author asks of the infrastructure; None when `needs_settings` is false.

        Raises:
            LaunchError: The run cannot be launched here.
        """

    async def open(self, ended: Callable[[Handle], None]) -> None:
        """Prepares. `ended` is called, as a hint only, when an attempt may have ended."""

    async def launch(self, plan: Plan, credentials: Credentials) -> Handle:
        """Starts the attempt. Idempotent: the same run and epoch is never started twice.

        Raises:
            LaunchError: It was not started.
        """

    async def inspect(self, handle: Handle) -> Liveness | InfraExit:
        """Says what is there. An `InfraExit` is proof: nothing of the attempt lives."""

    def waits_for(self, handle: Handle) -> Waiting | None:
        """Says why an attempt that was launched has not begun, as of the last look; None when that is not known."""

    async def stop(self, handle: Handle, *, abandon: bool, told: bool = False) -> None:
        """Asks the attempt to stop, with its grace period. Returns at once; may be called again.

        Args:
            handle: The attempt.
            abandon: True to kill it, and have it report nothing: its lease is lost, or it did not start in time.
            told: True when its supervisor hears of it from the control plane too: then only what does not end by
                itself within the grace period needs to be ended from outside.
        """

    async def list(self) -> list[Handle]:
        """Returns all attempts of this agent that have not been forgotten, dead ones included."""

    async def outbox(self, handle: Handle) -> Path | None:
        """Returns the folder with the dead attempt's events, when this launcher can reach it."""

    async def forget(self, handle: Handle) -> None:
        """The attempt's end is reported: `list` no longer returns it. Its files may stay for a while."""

    async def cleanup(self) -> None:
        """Removes what is old or too much of what was forgotten."""

    async def close(self) -> None:
        """Lets go of everything. Attempts go on."""
