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
from itertools import pairwise
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
    # Tasks go by a provisional number, the rank of their slug: hashing the objects over and over costs more.
    by_slug = sorted((slug, number, task) for number, (task, slug) in enumerate(flow.slugs.items()))
    slugs = [slug for slug, _, _ in by_slug]
    _refuse_duplicates(slugs)
    rank = {id(task): number for number, (_, _, task) in enumerate(by_slug)}
    incoming: list[list[Edge]] = [[] for _ in slugs]
    outgoing: list[list[int]] = [[] for _ in slugs]
    for edge in flow.edges:
        after = rank[id(edge.downstream_task)]
        incoming[after].append(edge)
        outgoing[rank[id(edge.upstream_task)]].append(after)
    order = _topological(slugs, outgoing, [len(edges) for edges in incoming])
    number_of = [0] * len(slugs)
    for number, provisional in enumerate(order):
        number_of[provisional] = number

    inputs: list[tuple[Input, ...]] = []
    for provisional in order:
        items = [
            Input(number_of[rank[id(e.upstream_task)]], e.key, e.mapped, e.flattened, e) for e in incoming[provisional]
        ]
        if len(items) > 1:
            items.sort(key=_input_order)
        inputs.append(tuple(items))
    tasks = tuple([by_slug[provisional][2] for provisional in order])
    constants = flow.constants
    parameters = sorted(flow.parameters(), key=lambda parameter: str(parameter.name))
    return Graph(
        slugs=tuple([slugs[provisional] for provisional in order]),
        tasks=tasks,
        inputs=tuple(inputs),
        downstream=tuple([tuple(sorted([number_of[after] for after in outgoing[p]])) for p in order]),
        mapped=tuple([any(i.mapped for i in task_inputs) for task_inputs in inputs]),
        constants=tuple([dict(constants[task]) if task in constants else _NO_CONSTANTS for task in tasks])
        if constants
        else (_NO_CONSTANTS,) * len(tasks),
        parameters=MappingProxyType({p.name: number_of[rank[id(p)]] for p in parameters}),
        required_parameters=frozenset(parameter.name for parameter in parameters if parameter.required),
        reference_tasks=tuple(sorted(number_of[rank[id(task)]] for task in flow.reference_tasks())),
        index=MappingProxyType({task: number for number, task in enumerate(tasks)}),
    )


def _input_order(item: Input) -> tuple[str, int, bool, bool]:
    return (item.key or "", item.upstream, item.mapped, item.flattened)


def _refuse_duplicates(slugs: list[str]) -> None:
    doubled = sorted({first for first, second in pairwise(slugs) if first == second})
    if doubled:
        raise DuplicateSlugError(f"more than one task of the flow has the slug {', '.join(doubled)}")


def _topological(slugs: list[str], outgoing: list[list[int]], waiting: list[int]) -> list[int]:
    """Returns the provisional numbers in order; the lowest of those that are ready comes first."""
    ready = [number for number, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for after in outgoing[number]:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, after)
    if len(order) < len(slugs):
        raise CycleError(f"the flow has a cycle: {' -> '.join(_cycle(slugs, outgoing, waiting))}")
    return order


def _cycle(slugs: list[str], outgoing: list[list[int]], waiting: list[int]) -> list[str]:
    """Walks upstream among the tasks that never became ready until one comes twice."""
    upstream: dict[int, int] = {}
    for number, count in enumerate(waiting):
        if count:
            for after in outgoing[number]:
                upstream.setdefault(after, number)
    number = next(number for number, count in enumerate(waiting) if count)
    path: list[int] = []
    while number not in path:
        path.append(number)
        number = upstream[number]
    loop = [*path[path.index(number) :], number]
    return [slugs[number] for number in reversed(loop)]
