"""Order and cycles of a flow's graph: pure functions over adjacency."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliograph.core.task import Task


def topological_order(
    tasks: Sequence[Task], upstream: Callable[[Task], Iterable[Task]], downstream: Callable[[Task], Iterable[Task]]
) -> list[Task]:
    """Returns the tasks so that each comes after its upstream tasks; among independents the given order decides.

    Tasks on or behind a cycle are left out, so a shorter list means that there is a cycle.
    """
    position = {task: index for index, task in enumerate(tasks)}
    waiting = {task: len({up for up in upstream(task) if up in position}) for task in tasks}
    ready = [position[task] for task in tasks if waiting[task] == 0]  # sorted, hence a heap
    order = []
    while ready:
        task = tasks[heapq.heappop(ready)]
        order.append(task)
        for down in {*downstream(task)}:
            if down in position:
                waiting[down] -= 1
                if waiting[down] == 0:
                    heapq.heappush(ready, position[down])
    return order


def reachable(start: Iterable[Task], neighbours: Callable[[Task], Iterable[Task]]) -> dict[Task, None]:
    """Returns the tasks that can be reached from `start`, which are included."""
    found: dict[Task, None] = {}
    stack = list(start)
    while stack:
        task = stack.pop()
        if task not in found:
            found[task] = None
            stack.extend(neighbours(task))
    return found


def find_cycle(tasks: Iterable[Task], downstream: Callable[[Task], Iterable[Task]]) -> list[Task]:
    """Returns the tasks of one cycle in order, or an empty list."""
    done: set[Task] = set()
    for root in tasks:
        if root in done:
            continue
        path: dict[Task, None] = {root: None}
        stack = [iter(list(downstream(root)))]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                done.add(path.popitem()[0])
            elif following in path:
                cycle = list(path)
                return cycle[cycle.index(following) :]
            elif following not in done:
                path[following] = None
                stack.append(iter(list(downstream(following))))
    return []
