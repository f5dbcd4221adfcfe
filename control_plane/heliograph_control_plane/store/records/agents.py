"""Agents, the leases that they take, and what they are told to do."""

from __future__ import annotations

from dataclasses import dataclass

from heliograph_control_plane.store.records.flows import FlowVersion, Requirement
from heliograph_control_plane.store.records.reports import RunCommandKind
from heliograph_control_plane.store.records.runs import FlowRun


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
        waits_for: What its infrastructure waits for: number of a launch delay, 0 for none.
    """

    run_id: str
    epoch: int
    renew: bool
    project: str = ""
    waits_for: int = 0


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
