"""What a control plane has stored of a run, read through its API, and what the run itself witnessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.stack import PROJECT, Stack

if TYPE_CHECKING:
    from heliograph.api.v1.task_run_service_pb2 import TaskRun, TaskRunStateRecord

from heliograph.client.connection import Connection
from heliograph.engine.codes import StateCode


@dataclass(frozen=True)
class Entry:
    """One stored task state."""

    sequence: int
    slug: str
    map_index: int | None
    state: StateCode
    seconds: float
    epoch: int


def task_states(stack: Stack, run: str) -> list[Entry]:
    """Returns every stored task state of a run, in the order of their sequence."""
    from heliograph.api.v1 import task_run_service_pb2 as api

    records: list[TaskRunStateRecord] = []
    with stack.connection() as connection:
        token = ""
        while True:
            page = connection.call(
                connection.services.task_runs.ListTaskRunStates,
                api.ListTaskRunStatesRequest(
                    parent=f"projects/{PROJECT}/flowRuns/{run}", page_size=1000, page_token=token
                ),
            )
            records += page.states
            token = page.next_page_token
            if not token:
                break
        slugs = {task_run.task: task_run.task_slug for task_run in _task_runs(connection, run)}  # now all have one
    return [
        Entry(
            record.sequence,
            slugs[record.task],
            record.map_index if record.HasField("map_index") else None,
            StateCode(record.state),
            record.time.ToNanoseconds() / 1e9,
            record.epoch,
        )
        for record in records
    ]


def task_runs(stack: Stack, run: str, project: str = PROJECT) -> list[TaskRun]:
    """Returns the task runs of a run."""
    with stack.connection() as connection:
        return list(_task_runs(connection, run, project))


def _task_runs(connection: Connection, run: str, project: str = PROJECT) -> Iterator[TaskRun]:
    """Yields every task run of a run."""
    from heliograph.api.v1 import task_run_service_pb2 as api

    token = ""
    while True:
        page = connection.call(
            connection.services.task_runs.ListTaskRuns,
            api.ListTaskRunsRequest(parent=f"projects/{project}/flowRuns/{run}", page_size=1000, page_token=token),
        )
        yield from page.task_runs
        token = page.next_page_token
        if not token:
            return


@dataclass(frozen=True)
class Witnessed:
    """One line that user code wrote into a file of its own."""

    step: int
    seconds: float
    pid: int


def witness(path: Path) -> list[Witnessed]:
    """Reads the lines that a run's own code wrote; none when it has not begun, and no half-written one."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [Witnessed(**json.loads(line)) for line in lines]
