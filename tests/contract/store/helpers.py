"""Shorthands of the store's tests: a clock to set, a flow to run, runs brought to a state."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence

import pytest

from heliograph.engine.codes import StateCode
from heliograph_control_plane.store import SqlStore, open_store
from heliograph_control_plane.store.records import (
    AgentSpec,
    EventAck,
    EventBatch,
    FlowEvent,
    FlowRun,
    Lease,
    NewFlowRun,
    NewFlowVersion,
    RequestKey,
    TaskEvent,
)

SECOND = 1_000_000
START = 1_800_000_000 * SECOND
TOKEN = b"t" * 32

SQLITE_IS_QUICK = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.full)], indirect=True
)
"""For planted bugs that do not differ by the database: found on SQLite in the quick form, on both in the full one."""


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves on."""
        self.now += int(seconds * SECOND)


def version(flow: str = "etl", **changes: object) -> NewFlowVersion:
    """A flow's content."""
    values: dict[str, object] = {
        "project": "p", "flow": flow, "content_hash": "sha256:1", "graph": b"graph", "bundle": b"bundle",
        "launch": b"launch", "schedule": b"", "labels": (), "launcher": "", "host": "", "created_by": "users/ann",
    }  # fmt: skip
    return NewFlowVersion(**(values | changes))  # type: ignore[arg-type]


def task(index: int, state: StateCode, time: int = 1, *, child: int = -1, count: int = 1) -> TaskEvent:
    """A task's event."""
    return TaskEvent(index, child, int(state), time, count)


def flow(state: StateCode, time: int = 1, failure: bytes = b"") -> FlowEvent:
    """The flow's event."""
    return FlowEvent(int(state), time, failure)


def new_run(run_id: str) -> NewFlowRun:
    """A run to create now."""
    return NewFlowRun(run_id, "p", "etl", 0, run_id, "{}", None, 0, "users/ann")


class Bench:
    """A store with shorthands."""

    def __init__(
        self, url: str, clock: Clock | None = None, opener: Callable[..., SqlStore] = open_store, *, scene: bool = True
    ) -> None:
        self.url = url
        self.clock = clock or Clock()
        self.opener = opener
        self.store = opener(url, clock=self.clock)
        self._numbers = itertools.count(1)
        if scene:
            self.store.create_project("p", "").result()
            self.store.register_flow_version(version()).result()
            self.agent("a")

    def close(self) -> None:
        """Closes the store."""
        self.store.close()

    def reopen(self) -> None:
        """Closes the store and opens it again."""
        self.store.close()
        self.store = self.opener(self.url, clock=self.clock)

    def agent(self, name: str, labels: Sequence[str] = (), **changes: object) -> None:
        """Registers an agent."""
        values: dict[str, object] = {"launcher": "local", "version": "1", "host": "", "capacity": 10}
        spec = AgentSpec(name=name, labels=tuple(labels), **(values | changes))  # type: ignore[arg-type]
        self.store.register_agent(spec).result()

    def create(self, request: RequestKey | None = None, flow: str = "etl", **changes: object) -> FlowRun:
        """Creates a run."""
        number = next(self._numbers)
        values: dict[str, object] = {
            "run_id": str(uuid.uuid4()), "project": "p", "flow": flow, "version": 0, "run_name": f"run-{number}",
            "parameters_json": "{}", "labels": None, "scheduled_micros": 0, "created_by": "users/ann",
        }  # fmt: skip
        return self.store.create_flow_run(NewFlowRun(**(values | changes)), request).result()  # type: ignore[arg-type]

    def lease(self, agent: str = "a", count: int = 1, request_id: str | None = None) -> tuple[Lease, ...]:
        """Leases runs."""
        name = request_id or f"r{next(self._numbers)}"
        return self.store.lease_flow_runs(agent, name, count).result()

    def submitted(self, agent: str = "a") -> FlowRun:
        """Creates a run that is leased and accepted."""
        run = self.create()
        (lease,) = [one for one in self.lease(agent, 100) if one.flow_run.run_id == run.run_id]
        return self.accept(agent, run.run_id, lease.epoch)

    def accept(self, agent: str, run_id: str, epoch: int, token_hash: bytes = TOKEN) -> FlowRun:
        """Confirms a lease."""
        self.store.accept_flow_run(agent, run_id, epoch, token_hash).result()
        return self.get(run_id)

    def running(self) -> FlowRun:
        """Creates a run whose flow reported Running."""
        run = self.submitted()
        self.send(run, 1, flow(StateCode.RUNNING))
        return self.get(run)

    def send(self, run: FlowRun, first: int, *events: TaskEvent | FlowEvent, **changes: object) -> EventAck:
        """Sends a batch under the run's epoch."""
        values: dict[str, object] = {
            "run_id": run.run_id,
            "epoch": run.epoch,
            "first_sequence": first,
            "events": events,
        }
        return self.store.apply_event_batch(EventBatch(**(values | changes))).result()  # type: ignore[arg-type]

    def get(self, run: FlowRun | str) -> FlowRun:
        """Reads a run."""
        return self.store.get_flow_run(run if isinstance(run, str) else run.run_id).result()

    def history(self, run: FlowRun) -> list[str]:
        """Returns the names of the states that a run went through."""
        return [record.state.name for record in self.store.list_flow_run_states(run.run_id).result()]
