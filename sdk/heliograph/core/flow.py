"""`Flow`: a graph of tasks, declared before it runs.

This module owns the graph: which tasks and edges there are, their slugs, and what may be asked about them. Running,
drawing, saving and describing a flow live in modules of their own; the methods here only lead there. Tasks and edges
keep the order in which they were added, so that the same source always gives the same flow.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from heliograph.context import context
from heliograph.core import graph
from heliograph.core.coercion import as_task, is_constant
from heliograph.core.edge import Edge
from heliograph.core.options import check_result, check_state_handlers, checked_name, template_fields
from heliograph.core.parameter import Parameter
from heliograph.core.running import RunMethods
from heliograph.core.task import Task
from heliograph.exceptions import CycleError, DuplicateSlugError, FlowError
from heliograph.utilities.edges import EdgeAnnotation

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from heliograph.schedules import Schedule


T = TypeVar("T")


class Flow(RunMethods):
    """A graph of tasks with a name.

    Build it in a block: `with Flow("name") as flow:`; tasks called there join it. Or call `add_task`, `add_edge` and
    `set_dependencies`.

    Args:
        name: Name of the flow; in a project it is its identity.
        schedule: When it runs by itself.
        executor: Where its tasks run; by default in the flow's own process, one after the other.
        run_config: What an agent needs to launch it.
        storage: Where its bundle is kept.
        tasks: Tasks to add.
        edges: Edges to add.
        reference_tasks: Tasks that decide the outcome; by default those without downstream tasks.
        state_handlers: Functions `(flow, old_state, new_state) -> state | None`, called at every change of state.
        on_failure: Function `(flow, state)`, called when the flow fails.
        validate: True to check the graph at once.
        result: Where and how results are stored by tasks that do not say it themselves.
        terminal_state_handler: Function `(flow, state, reference_task_states) -> state | None`, called once with the
            final state, which it may replace.
        environment: The wrapper that releases before 1.0 of Prefect used: its `executor` is taken when none is given.

    Raises:
        FlowError: No usable name, or an edge that cannot be.
        TypeError: `state_handlers` is not a list of functions, `schedule` no Schedule, `result` no result.
    """

    def __init__(
        self,
        name: str,
        schedule: Schedule | None = None,
        executor: Any = None,
        run_config: Any = None,
        storage: Any = None,
        tasks: Iterable[Task] | None = None,
        edges: Iterable[Edge] | None = None,
        reference_tasks: Iterable[Task] | None = None,
        state_handlers: Sequence[Callable[..., Any]] | None = None,
        on_failure: Callable[..., Any] | None = None,
        validate: bool | None = None,
        result: Any = None,
        terminal_state_handler: Callable[..., Any] | None = None,
        environment: Any = None,
    ) -> None:
        self.name = checked_name(name, "a flow")
        if schedule is not None and not hasattr(schedule, "clocks"):
            raise TypeError(f"the schedule of {name!r} must be a Schedule, such as CronSchedule(…), not {schedule!r}")
        check_result(result, f"flow {name!r}")
        self._made_as = self.name  # what an agent finds that runs the flow's file
        self.schedule = schedule
        self.environment = environment
        self.executor = executor if executor is not None else getattr(environment, "executor", None)
        self.run_config = run_config
        self.storage = storage
        self.result = result
        self.state_handlers = check_state_handlers(state_handlers, on_failure)
        self.terminal_state_handler = terminal_state_handler
        self._eager = _eager_validation()
        self.constants: dict[Task, dict[str, Any]] = {}
        self.slugs: dict[Task, str] = {}
        self._slug_owners: dict[str, Task] = {}
        self._slug_counts: dict[str, int] = {}
        self._edges: dict[Edge, None] = {}
        self._incoming: dict[Task, dict[Edge, None]] = {}
        self._outgoing: dict[Task, dict[Edge, None]] = {}
        self._reference_tasks: dict[Task, None] = {}
        for task in _in_order(tasks or ()):
            self.add_task(task)
        for edge in edges or ():
            self.add_edge(edge.upstream_task, edge.downstream_task, edge.key, edge.mapped, edge.flattened)
        self.set_reference_tasks(reference_tasks or ())
        if validate or (validate is None and self._eager):
            self.validate()

    def __repr__(self) -> str:
        return f"<Flow: name={self.name!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Flow):
            return NotImplemented
        return (self.name, self.tasks, self.edges, self.reference_tasks()) == (
            other.name, other.tasks, other.edges, other.reference_tasks(),
        )  # fmt: skip

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Task]:
        return iter(self.sorted_tasks())

    def __contains__(self, item: object) -> bool:
        return item in self.slugs or item in self._edges

    # --- building ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        block: AbstractContextManager[Any] = context(flow=self, _created_tasks={})
        block.__enter__()
        self.__dict__.setdefault("_blocks", []).append(block)
        return self

    def __exit__(self, *exception: Any) -> None:
        unused = [task.name for task in context["_created_tasks"] if task not in self.slugs]
        blocks: list[AbstractContextManager[Any]] = self.__dict__["_blocks"]
        block = blocks.pop()
        if not blocks:
            del self.__dict__["_blocks"]  # a flow can be pickled, an open block cannot
        block.__exit__(*exception)
        if unused and exception[0] is None:
            warnings.warn(
                f"tasks were made but not used in flow {self.name!r}: {', '.join(unused)};"
                " call them, or add them with flow.add_task()",
                stacklevel=2,
            )

    @property
    def tasks(self) -> AbstractSet[Task]:
        """All tasks, in the order in which they were added."""
        return self.slugs.keys()

    @property
    def edges(self) -> AbstractSet[Edge]:
        """All edges, in the order in which they were added."""
        return self._edges.keys()

    def add_task(self, task: Task) -> Task:
        """Adds a task, unless it is there already. Returns it.

        Raises:
            TypeError: It is no task.
            DuplicateSlugError: Another task has its slug.
        """
        if not isinstance(task, Task):
            raise TypeError(f"a flow takes tasks, not {task!r}")
        if task in self.slugs:
            return task
        self._set_slug(task, task.slug or self._new_slug(task))
        self._incoming[task] = {}
        self._outgoing[task] = {}
        self._join_block(task)
        return task

    def _join_block(self, task: Task) -> None:
        from heliograph.tasks.core.constants import Constant

        block = context.get("case")
        if block is not None and not isinstance(task, Parameter | Constant):
            block.add_task(task, self)

    def _new_slug(self, task: Task) -> str:
        prefix = "-".join([task.crossing_name, *sorted(task.tags)])
        number = self._slug_counts.get(prefix, 0) + 1
        while f"{prefix}-{number}" in self._slug_owners:
            number += 1
        self._slug_counts[prefix] = number
        return f"{prefix}-{number}"

    def _set_slug(self, task: Task, slug: str) -> None:
        owner = self._slug_owners.get(slug)
        if owner is not None and owner is not task:
            raise DuplicateSlugError(
                f"flow {self.name!r} has two tasks with the slug {slug!r}: {owner!r} and {task!r}",
                hint="a parameter's slug is its name: use one Parameter object for all its uses"
                if isinstance(task, Parameter)
                else "give one of them another slug, or none",
            )
        self.slugs[task] = slug
        self._slug_owners[slug] = task

    def add_edge(
        self,
        upstream_task: Any,
        downstream_task: Task,
        key: str | None = None,
        mapped: bool = False,
        flattened: bool = False,
        validate: bool | None = None,
    ) -> Edge:
        """Makes `downstream_task` wait for `upstream_task`, and take its result as argument `key` when given.

        A constant with a key is no edge: it is kept in `flow.constants`, unless it is mapped or flattened.

        Raises:
            FlowError: A parameter cannot wait, an argument does not exist or has a value already.
            CycleError: The task would wait for itself; with `validate`, also through others.
        """
        from heliograph.tasks.core.constants import Constant

        if isinstance(upstream_task, EdgeAnnotation):
            mapped = upstream_task.annotations.get("mapped", mapped)
            flattened = upstream_task.annotations.get("flattened", flattened)
            upstream_task = upstream_task.task
        if isinstance(downstream_task, Parameter):
            raise FlowError(f"parameter {downstream_task.name!r} gets its value from outside, so it waits for no task")
        upstream = as_task(upstream_task, self)
        edge = Edge(upstream, downstream_task, key, mapped, flattened)
        if upstream is downstream_task:
            raise CycleError(f"{downstream_task.name} would wait for itself")
        self.add_task(downstream_task)
        if key is not None:
            self._check_argument(downstream_task, key)
            if isinstance(upstream, Constant) and not mapped and not flattened:
                self._set_constant(downstream_task, key, upstream.value)
                return edge
            if key in self.constants.get(downstream_task, ()):
                self._refuse_argument(downstream_task, key)
        self.add_task(upstream)
        if (validate or (validate is None and self._eager)) and upstream in graph.reachable(
            [downstream_task], self._downstream
        ):
            raise CycleError(f"{downstream_task.name} would wait for itself through {upstream.name}")
        self._insert_edge(edge)
        return edge

    def _set_constant(self, task: Task, key: str, value: Any) -> None:
        self.constants.setdefault(task, {})[key] = value

    def _insert_edge(self, edge: Edge) -> None:
        self._edges[edge] = None
        self._incoming[edge.downstream_task][edge] = None
        self._outgoing[edge.upstream_task][edge] = None

    def _check_argument(self, task: Task, key: str) -> None:
        parameters = task.run_signature.parameters
        if key not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise FlowError(f"{task.name} has no argument {key!r}; it takes {task.run_signature}")
        if any(edge.key == key for edge in self._incoming[task]):
            self._refuse_argument(task, key)

    def _refuse_argument(self, task: Task, key: str) -> None:
        raise FlowError(
            f"argument {key!r} of {task.name} has a value already in flow {self.name!r}",
            hint="a call makes a copy each time; for another use of this very object, take task.copy() first",
        )

    def set_dependencies(
        self,
        task: Any,
        upstream_tasks: Iterable[Any] | None = None,
        downstream_tasks: Iterable[Any] | None = None,
        keyword_tasks: Mapping[str, Any] | None = None,
        mapped: bool = False,
        validate: bool | None = None,
    ) -> None:
        """Adds a task and edges to and from it.

        Args:
            task: The task, or anything that becomes one.
            upstream_tasks: What it waits for without taking a value.
            downstream_tasks: What waits for it without taking its value.
            keyword_tasks: What it takes, by argument name.
            mapped: True to map over all upstream and keyword tasks that are not `unmapped`.
            validate: True to look for cycles at once.
        """
        task = as_task(task, self)
        self.add_task(task)
        for upstream in _in_order(upstream_tasks or ()):
            self.add_edge(upstream, task, mapped=mapped, validate=validate)
        for downstream in _in_order(downstream_tasks or ()):
            self.add_edge(task, as_task(downstream, self), mapped=mapped, validate=validate)
        for key, value in (keyword_tasks or {}).items():
            if not mapped and is_constant(value):  # the usual case, without the detour over a Constant task
                self._check_argument(task, key)
                self._set_constant(task, key, value)
            else:
                self.add_edge(value, task, key=key, mapped=mapped, validate=validate)

    def chain(self, *tasks: Task, validate: bool | None = None) -> list[Edge]:
        """Makes each task wait for the one before it. Returns the edges."""
        return [self.add_edge(first, second, validate=validate) for first, second in itertools.pairwise(tasks)]

    def update(
        self,
        flow: Flow,
        merge_parameters: bool = False,
        validate: bool | None = None,
        merge_reference_tasks: bool = False,
    ) -> None:
        """Adds all tasks, edges and constants of another flow.

        Args:
            flow: The other flow, which stays as it is.
            merge_parameters: True to let parameters of one name be one; else they raise `DuplicateSlugError`.
            validate: True to look for cycles at once.
            merge_reference_tasks: True to add the other flow's reference tasks to those of this one.
        """
        same: dict[Task, Task] = {}
        if merge_parameters:
            own = {parameter.name: parameter for parameter in self.parameters()}
            same = {theirs: own[theirs.name] for theirs in flow.parameters() if theirs.name in own}
        references = self.reference_tasks()
        for task in flow.tasks:
            self.add_task(same.get(task, task))
        for edge in flow.edges:
            upstream = same.get(edge.upstream_task, edge.upstream_task)
            moved = Edge(upstream, edge.downstream_task, edge.key, edge.mapped, edge.flattened)
            if moved not in self._edges:
                self.add_edge(upstream, edge.downstream_task, edge.key, edge.mapped, edge.flattened, validate)
        for task, values in flow.constants.items():
            self.constants.setdefault(task, {}).update(values)
        if merge_reference_tasks:
            self.set_reference_tasks(
                [*references, *(same.get(task, task) for task in _in_order(flow.reference_tasks()))]
            )

    def replace(self, old: Task, new: Any, validate: bool | None = None) -> None:
        """Puts a task, or a plain value, in the place of another: its edges, its slug, its part in the outcome.

        A value waits for nothing, so with it the edges to the old task end.

        Raises:
            FlowError: The old task is not in the flow, or the new one cannot take its place.
        """
        from heliograph.tasks.core.constants import Constant

        if old not in self.slugs:
            raise FlowError(f"{old!r} is not in flow {self.name!r}, so it cannot be replaced")
        new = as_task(new, self)
        edges = [edge for edge in self._edges if old in (edge.upstream_task, edge.downstream_task)]
        constants = self.constants.pop(old, {})
        slug = self.slugs.pop(old)
        was_reference = self._reference_tasks.pop(old, self) is None
        del self._slug_owners[slug], self._incoming[old], self._outgoing[old]
        for edge in edges:
            del self._edges[edge]
            self._incoming.get(edge.downstream_task, {}).pop(edge, None)
            self._outgoing.get(edge.upstream_task, {}).pop(edge, None)
        if new not in self.slugs and not isinstance(new, Constant):
            self._set_slug(new, new.slug or slug)
            self._incoming[new] = {}
            self._outgoing[new] = {}
        for edge in edges:
            if edge.upstream_task is old:
                self.add_edge(new, edge.downstream_task, edge.key, edge.mapped, edge.flattened, validate)
            elif not isinstance(new, Constant):
                self.add_edge(edge.upstream_task, new, edge.key, edge.mapped, edge.flattened, validate)
        if not isinstance(new, Constant):
            for key, value in constants.items():
                self.add_edge(Constant(value), new, key)
        if was_reference:
            self._reference_tasks[self.add_task(new)] = None

    def copy(self) -> Self:
        """Returns a flow with the same task objects, whose graph can be changed on its own."""
        new = copy.copy(self)
        new.__dict__.pop("_blocks", None)
        for name in ("slugs", "_slug_owners", "_slug_counts", "_edges", "_reference_tasks"):
            setattr(new, name, dict(getattr(self, name)))
        for name in ("constants", "_incoming", "_outgoing"):
            setattr(new, name, {task: dict(values) for task, values in getattr(self, name).items()})
        new.state_handlers = list(self.state_handlers)
        return new

    def validate(self) -> None:
        """Checks the whole graph.

        Raises:
            CycleError: Tasks wait for each other; the message names them in order.
            DuplicateSlugError: Two tasks have one slug.
            FlowError: An edge or reference task is not in the flow, or mapped children would share one stored result.
        """
        for edge in self._edges:
            if edge.upstream_task not in self.slugs or edge.downstream_task not in self.slugs:
                raise FlowError(f"{edge!r} has an end that is not in flow {self.name!r}")
        if len(set(self.slugs.values())) < len(self.slugs):
            raise DuplicateSlugError(f"flow {self.name!r} has two tasks with one slug")
        if not self.reference_tasks() <= self.tasks:
            raise FlowError(f"a reference task is not in flow {self.name!r}")
        if cycle := graph.find_cycle(self.tasks, self._downstream):
            names = [self.slugs[task] for task in [*cycle, cycle[0]]]
            raise CycleError(f"flow {self.name!r} has a cycle: {' → '.join(names)}")
        self.check_targets()

    def check_targets(self) -> None:
        """Refuses mapped tasks whose children would all read and write one stored result.

        Raises:
            FlowError: There is one; the message names it.
        """
        for task in self.slugs:
            target = task.target or getattr(task.result, "location", None)
            if not isinstance(target, str):
                continue
            mapped = {edge.key for edge in self._incoming[task] if edge.mapped}
            if mapped and template_fields(target).isdisjoint({*mapped, *_CHILD_FIELDS}):
                raise FlowError(
                    f"all children of the mapped task {task.name} would share the stored result {target!r}",
                    hint="add {map_index}, or a mapped argument, to the target",
                )

    # --- questions --------------------------------------------------------------------------------------------------

    def reference_tasks(self) -> set[Task]:
        """Returns the tasks that decide the outcome."""
        return set(self._reference_tasks) or self.terminal_tasks()

    def set_reference_tasks(self, tasks: Iterable[Task]) -> None:
        """Chooses the tasks that decide the outcome; none means those without downstream tasks.

        Raises:
            FlowError: One of them is not in the flow.
        """
        chosen = dict.fromkeys(_in_order(tasks))
        for task in chosen:
            if task not in self.slugs:
                raise FlowError(f"{task!r} is not in flow {self.name!r}, so it cannot be a reference task")
        self._reference_tasks = chosen

    def root_tasks(self) -> set[Task]:
        """Returns the tasks without upstream tasks."""
        return {task for task, edges in self._incoming.items() if not edges}

    def terminal_tasks(self) -> set[Task]:
        """Returns the tasks without downstream tasks."""
        return {task for task, edges in self._outgoing.items() if not edges}

    def parameters(self) -> set[Parameter]:
        """Returns the parameters."""
        return {task for task in self.slugs if isinstance(task, Parameter)}

    def edges_to(self, task: Task) -> set[Edge]:
        """Returns the edges that end at `task`."""
        return set(self._edges_of(self._incoming, task))

    def edges_from(self, task: Task) -> set[Edge]:
        """Returns the edges that begin at `task`."""
        return set(self._edges_of(self._outgoing, task))

    def upstream_tasks(self, task: Task) -> set[Task]:
        """Returns the tasks that `task` waits for itself."""
        return {edge.upstream_task for edge in self._edges_of(self._incoming, task)}

    def downstream_tasks(self, task: Task) -> set[Task]:
        """Returns the tasks that wait for `task` themselves."""
        return {edge.downstream_task for edge in self._edges_of(self._outgoing, task)}

    def all_upstream_edges(self) -> dict[Task, set[Edge]]:
        """Returns the edges that end at each task."""
        return {task: set(edges) for task, edges in self._incoming.items()}

    def all_downstream_edges(self) -> dict[Task, set[Edge]]:
        """Returns the edges that begin at each task."""
        return {task: set(edges) for task, edges in self._outgoing.items()}

    def sorted_tasks(self, root_tasks: Iterable[Task] | None = None) -> tuple[Task, ...]:
        """Returns the tasks so that each comes after those it waits for; independents in the order of their adding.

        Args:
            root_tasks: Only these and what is downstream of them.

        Raises:
            CycleError: Tasks wait for each other.
        """
        tasks = list(self.tasks)
        if root_tasks is not None:
            chosen = graph.reachable(root_tasks, self._downstream)
            tasks = [task for task in tasks if task in chosen]
        order = graph.topological_order(tasks, self._upstream, self._downstream)
        if len(order) < len(tasks):
            self.validate()
        return tuple(order)

    def get_tasks(
        self,
        name: str | None = None,
        slug: str | None = None,
        tags: Iterable[str] | None = None,
        task_type: type[Task] = Task,
    ) -> list[Task]:
        """Returns the tasks for which everything given is true."""
        wanted = set(tags or ())
        return [
            task
            for task in self.tasks
            if (name is None or task.name == name)
            and (slug is None or self.slugs[task] == slug)
            and wanted <= task.tags
            and isinstance(task, task_type)
        ]

    def _edges_of(self, edges: dict[Task, dict[Edge, None]], task: Task) -> Iterable[Edge]:
        try:
            return edges[task]
        except KeyError:
            raise FlowError(f"{task!r} is not in flow {self.name!r}") from None

    def _upstream(self, task: Task) -> Iterator[Task]:
        return (edge.upstream_task for edge in self._incoming[task])

    def _downstream(self, task: Task) -> Iterator[Task]:
        return (edge.downstream_task for edge in self._outgoing[task])


_CHILD_FIELDS = frozenset({"map_index", "task_run_id", "task_full_name", "task_run_name"})
"""Names in a template that differ between the children of a mapped task."""


def _in_order(items: Iterable[T]) -> Iterable[T]:
    """Returns the items of a set in the order in which the tasks were made, others as they are."""
    if isinstance(items, set | frozenset):
        return sorted(items, key=lambda item: getattr(item, "_created", -1))
    return items


def _eager_validation() -> bool:
    from heliograph.config import config

    return bool(config().flow.eager_edge_validation)
