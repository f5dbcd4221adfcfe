"""WatchFlowRuns: first what is, then what changes.

A watcher keeps only ids of runs that changed, and reads what they are when it can send: a slow reader skips states in
between, holds up nobody, and costs no more memory than its ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from heliograph.api.v1 import flow_run_service_pb2 as pb
from heliograph.exceptions import ResourceExhaustedError
from heliograph_control_plane import calls
from heliograph_control_plane.errors import bad_field
from heliograph_control_plane.store.records import FlowRun, TaskRun
from heliograph_control_plane.wakeups import SLOW_POLL_SECONDS

from . import convert
from .backend import Backend
from .reach import reach

MAX_TASK_RUNS = 1_000
_READ_AT_ONCE = 200


@dataclass(slots=True)
class _Seen:
    """What a watcher was told of one run. `epoch` and `sequence`: how far its task runs were read."""

    run: FlowRun | None = None
    epoch: int = 0
    sequence: int = 0


async def watch(backend: Backend, request: pb.WatchFlowRunsRequest) -> AsyncIterator[pb.WatchFlowRunsResponse]:
    """Answers WatchFlowRuns."""
    project, scope = reach("parent", request.parent)
    if request.flow_runs:
        runs = [await backend.visible_run("flow_runs", name) for name in request.flow_runs]
        if project and any(run.project != project for run in runs):
            raise bad_field("flow_runs", "names a run that is not in the project named by `parent`")
        async for answer in _watch_named(backend, request, [run.run_id for run in runs]):
            yield answer
        return
    if request.include_task_runs or request.until_finished:
        raise bad_field("flow_runs", "must name runs to get task runs, or to end when they are finished")
    if calls.principal().run is not None:
        raise bad_field("flow_runs", "must name runs: a run sees its own and its children only")
    with backend.wakeups.listen() as listener:
        while not backend.wakeups.stopping.is_set():
            await listener.wait(60.0)
            if listener.overflowed:
                raise ResourceExhaustedError("the reader is too slow for the changes of all runs; watch again")
            changed = sorted(listener.take())
            for start in range(0, len(changed), _READ_AT_ONCE):
                for run in await backend.store.get_flow_runs(changed[start : start + _READ_AT_ONCE]):
                    if (not project or run.project == project) and (scope is None or run.project in scope):
                        yield pb.WatchFlowRunsResponse(flow_run=convert.flow_run(run))


async def _watch_named(
    backend: Backend, request: pb.WatchFlowRunsRequest, run_ids: list[str]
) -> AsyncIterator[pb.WatchFlowRunsResponse]:
    seen = {run_id: _Seen() for run_id in run_ids}
    with backend.wakeups.listen(run_ids) as listener:
        due = set(run_ids)
        while True:
            for run in await backend.store.get_flow_runs(sorted(due)):
                async for answer in _changes(backend, run, seen[run.run_id], tasks=request.include_task_runs):
                    yield answer
            finished = all(known.run is not None and known.run.state.is_finished for known in seen.values())
            if backend.wakeups.stopping.is_set() or (request.until_finished and finished):
                return
            await listener.wait(SLOW_POLL_SECONDS)
            # Nothing changed as far as is known: look at all of them, in case a hint was lost or a run became lost.
            due = listener.take() or set(run_ids)


async def _changes(
    backend: Backend, run: FlowRun, seen: _Seen, *, tasks: bool
) -> AsyncIterator[pb.WatchFlowRunsResponse]:
    changed = seen.run is None or _essence(run) != _essence(seen.run)
    first = seen.run is None
    seen.run = run
    if tasks:
        slugs = (await backend.version_facts(run.project, run.flow, run.version)).slugs
        batches = _all_task_runs(backend, run, seen) if first else _changed_task_runs(backend, run, seen)
        async for batch in batches:
            changed = False
            yield pb.WatchFlowRunsResponse(
                flow_run=convert.flow_run(run),
                task_runs=[convert.task_run(record, run.project, slugs) for record in batch],
            )
    if changed:
        yield pb.WatchFlowRunsResponse(flow_run=convert.flow_run(run))


def _essence(run: FlowRun) -> FlowRun:
    """A run without what changes by itself: watchers are not woken by the passing of time."""
    return replace(run, late_micros=0, heard_micros=0, last_sequence=0)


async def _all_task_runs(backend: Backend, run: FlowRun, seen: _Seen) -> AsyncIterator[tuple[TaskRun, ...]]:
    # What happens while these pages are read is beyond the sequence that the run had before.
    seen.epoch, seen.sequence = run.epoch, run.last_sequence
    token = ""
    while True:
        page = await backend.store.list_task_runs(run.run_id, (), MAX_TASK_RUNS // 20, token)
        if page.items:
            yield page.items
        token = page.next_token
        if not token:
            return


async def _changed_task_runs(backend: Backend, run: FlowRun, seen: _Seen) -> AsyncIterator[tuple[TaskRun, ...]]:
    if run.epoch != seen.epoch:
        seen.epoch, seen.sequence = run.epoch, 0
    while seen.sequence < run.last_sequence:
        batch, after = await backend.store.list_changed_task_runs(run.run_id, seen.epoch, seen.sequence, MAX_TASK_RUNS)
        if after <= seen.sequence:
            return
        seen.sequence = after
        for start in range(0, len(batch), 50):
            yield batch[start : start + 50]
