"""The compiled form of a flow: an immutable graph of integers.

Tasks get their numbers in topological order, ties broken by slug, so that the same flow source always gives the same
numbers. Everything that the engine tells of a run speaks in these numbers, and `Graph.graph_hash` says whether two
builds of a flow mean the same by them.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from heliograph.exceptions import CycleError, DuplicateSlugError

if TYPE_CHECKING:
    from heliograph.core.edge import Edge
    from heliograph.core.flow import Flow
    from heliograph.core.task import Task


class Input(NamedTuple):
    """One incoming edge: from which task, into which argument, and how."""

    upstream: int
    key: str | None
    mapped: bool
    flattened: bool
    edge: Edge


@dataclass(frozen=True, eq=False)
class Graph:
    """A compiled flow. Everything is indexed by task number.

    Attributes:
        slugs: Slug of each task.
        tasks: The task objects.
        inputs: Incoming edges of each task, sorted by key and upstream number.
        downstream: Numbers of the tasks after each task, once per edge.
        mapped: True for tasks that make children.
        constants: Constant arguments of each task.
        parameters: Number of each parameter's task, by parameter name.
        required_parameters: Names of the parameters without a default.
        reference_tasks: Numbers of the tasks that decide the flow's final state.
        index: Number of each task object.
    """

    slugs: tuple[str, ...]
    tasks: tuple[Task, ...]
    inputs: tuple[tuple[Input, ...], ...]
    downstream: tuple[tuple[int, ...], ...]
    mapped: tuple[bool, ...]
    constants: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, int]
    required_parameters: frozenset[str]
    reference_tasks: tuple[int, ...]
    index: Mapping[Task, int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.slugs)

    @cached_property
    def hash(self) -> str:
        """`sha256:` and the hex digest over slugs, edges and parameter names."""
        digest = hashlib.sha256()
        for number, slug in enumerate(self.slugs):
            edges = [[i.upstream, i.key or "", i.mapped, i.flattened] for i in self.inputs[number]]
            digest.update(json.dumps([slug, edges], separators=(",", ":"), ensure_ascii=True).encode())
            digest.update(b"\n")
        digest.update(json.dumps(sorted(self.parameters), ensure_ascii=True).encode())
        return f"sha256:{digest.hexdigest()}"

    def graph_hash(self) -> str:
        """Returns the hash of the graph; equal for equal flow sources, whatever the process."""
        return self.hash


_NO_CONSTANTS: Mapping[str, Any] = MappingProxyType({})


def compile_flow(flow: Flow) -> Graph:
    """Compiles a flow.

    Args:
        flow: The flow; later changes of it do not change the graph.

    Raises:
        CycleError: The edges form a cycle; the message names its tasks.
        DuplicateSlugError: Two tasks have one slug.
    """
    slug_of: dict[Task, str] = {task: flow.slugs[task] for task in flow.tasks}
    _refuse_duplicates(slug_of)
    incoming: dict[Task, list[Edge]] = {task: [] for task in slug_of}
    outgoing: dict[Task, list[Task]] = {task: [] for task in slug_of}
    for edge in flow.edges:
        incoming[edge.downstream_task].append(edge)
        outgoing[edge.upstream_task].append(edge.downstream_task)
    order = _topological(slug_of, incoming, outgoing)
    index = {task: number for number, task in enumerate(order)}

    inputs = tuple(
        tuple(
            sorted(
                (Input(index[e.upstream_task], e.key, e.mapped, e.flattened, e) for e in incoming[task]),
                key=_input_order,
            )
        )
        if len(incoming[task]) > 1
        else tuple([Input(index[e.upstream_task], e.key, e.mapped, e.flattened, e) for e in incoming[task]])
        for task in order
    )
    constants = flow.constants
    parameters = sorted(flow.parameters(), key=lambda parameter: str(parameter.name))
    return Graph(
        slugs=tuple([slug_of[task] for task in order]),
        tasks=tuple(order),
        inputs=inputs,
        downstream=tuple([tuple(sorted([index[t] for t in outgoing[task]])) for task in order]),
        mapped=tuple([any([i.mapped for i in task_inputs]) for task_inputs in inputs]),
        constants=tuple([dict(constants[task]) if task in constants else _NO_CONSTANTS for task in order]),
        parameters=MappingProxyType({parameter.name: index[parameter] for parameter in parameters}),
        required_parameters=frozenset(parameter.name for parameter in parameters if parameter.required),
        reference_tasks=tuple(sorted(index[task] for task in flow.reference_tasks())),
        index=MappingProxyType(index),
    )


def _input_order(item: Input) -> tuple[str, int, bool, bool]:
    return (item.key or "", item.upstream, item.mapped, item.flattened)


def _refuse_duplicates(slug_of: Mapping[Task, str]) -> None:
    if len(set(slug_of.values())) == len(slug_of):
        return
    seen: set[str] = set()
    doubled: set[str] = set()
    for slug in slug_of.values():
        (doubled if slug in seen else seen).add(slug)
    raise DuplicateSlugError(f"more than one task of the flow has the slug {', '.join(sorted(doubled))}")


def _topological(
    slug_of: Mapping[Task, str], incoming: Mapping[Task, list[Edge]], outgoing: Mapping[Task, list[Task]]
) -> list[Task]:
    by_slug = {slug: task for task, slug in slug_of.items()}
    waiting = {task: len(edges) for task, edges in incoming.items()}
    ready = [slug_of[task] for task, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: list[Task] = []
    while ready:
        task = by_slug[heapq.heappop(ready)]
        order.append(task)
        for after in outgoing[task]:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, slug_of[after])
    if len(order) < len(slug_of):
        raise CycleError(f"the flow has a cycle: {' -> '.join(_cycle(waiting, incoming, slug_of))}")
    return order


def _cycle(
    waiting: Mapping[Task, int], incoming: Mapping[Task, list[Edge]], slug_of: Mapping[Task, str]
) -> list[str]:
    """Walks upstream among the tasks that never became ready until one comes twice."""
    task = min((t for t, count in waiting.items() if count), key=slug_of.__getitem__)
    path: list[Task] = []
    while task not in path:
        path.append(task)
        task = min(
            (e.upstream_task for e in incoming[task] if waiting[e.upstream_task]), key=slug_of.__getitem__
        )
    loop = [*path[path.index(task) :], task]
    return [slug_of[t] for t in reversed(loop)]
