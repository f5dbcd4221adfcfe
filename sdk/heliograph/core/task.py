"""`Task`: one step of a flow, with everything that decides how it runs.

A task is a plain object while a flow is built. Calling it inside a flow makes a copy and binds the copy's inputs;
what happens at run time is the engine's business, which reads the attributes set here and calls `run`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from heliograph.context import context
from heliograph.core.operations import Operations
from heliograph.core.options import TaskOptions, check_state_handlers, checked_count, checked_trigger
from heliograph.core.signature import check_run_signature, inferred_nout
from heliograph.exceptions import FlowError
from heliograph.utilities.edges import EdgeAnnotation

if TYPE_CHECKING:
    import logging

    from heliograph.core.flow import Flow

T = TypeVar("T", bound="Task")

_creation = itertools.count()


class _TaskMeta(type):
    """Tells the flow being built of every new task, so that one which is never used can be named at its end."""

    def __call__(cls: type[T], *args: Any, **kwargs: Any) -> T:  # type: ignore[misc]
        if "flow" in context and any(isinstance(value, Task) for value in (*args, *kwargs.values())):
            warnings.warn(
                f"a task was passed to the constructor of {cls.__name__}, which takes settings known now;"
                " make the task first, then call it with the other task's result",
                stacklevel=2,
            )
        task: T = super().__call__(*args, **kwargs)  # type: ignore[misc]
        _note_created(task)
        return task


def _note_created(task: Task) -> None:
    created: dict[Task, None] | None = context.get("_created_tasks")
    if created is not None and not task.auto_generated:
        created[task] = None


class Task(TaskOptions, Operations, metaclass=_TaskMeta):
    """One step of a flow. Subclass it and write `run`, or use the `@task` decorator.

    Args:
        name: Name for people; the class name by default.
        slug: Identity within a flow; made from name and tags by default.
        tags: Words to find and group tasks by. Those of `with tags(…)` are added.
        max_retries: Retries after the first attempt. Default 0, or `tasks.defaults.max_retries`.
        retry_delay: Pause before a retry: a timedelta, or seconds. Needed when there are retries.
        retry_on: Exception class or classes that are retried; every exception by default.
        timeout: Limit of one attempt: whole seconds, or a timedelta. No limit by default.
        trigger: Decides from the upstream states whether to run. Default `triggers.all_successful`.
        skip_on_upstream_skip: True (default) to skip when an upstream task was skipped.
        cache_for: How long a result may be reused.
        cache_validator: Decides whether a cached result may be used. Default `duration_only` with `cache_for`.
        cache_key: Shared name of a cache; the task's name by default.
        checkpoint: Whether the result is stored; None (default) stores it when a `result` is configured.
        state_handlers: Functions `(task, old_state, new_state) -> state | None`, called at every change of state.
        on_failure: Function `(task, state)`, called when the task fails.
        log_stdout: True to turn printed lines into log lines.
        result: Where and how the result is stored; the flow's `result` by default.
        target: Name of the stored result, a template or a function. If it exists, the task does not run.
        task_run_name: Name of one run of the task, a template or a function.
        nout: Number of results for `a, b = task()`. Inferred from a tuple return annotation.

    Raises:
        FlowError: Options that contradict each other, or a `run` that cannot be called by name.
        TypeError: An option of a wrong type.
    """

    _generated_name: tuple[str, str] | None = None
    """A name made from a constant, and what it is called where no constant may be seen."""

    auto_generated = False
    """True for tasks that Heliograph makes itself, for collections, constants and operators."""

    def __init__(
        self,
        name: str | None = None,
        slug: str | None = None,
        tags: Iterable[str] | None = None,
        max_retries: int | None = None,
        retry_delay: timedelta | float | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        timeout: int | timedelta | None = None,
        trigger: Callable[..., bool] | None = None,
        skip_on_upstream_skip: bool = True,
        cache_for: timedelta | None = None,
        cache_validator: Callable[..., bool] | None = None,
        cache_key: str | None = None,
        checkpoint: bool | None = None,
        state_handlers: Sequence[Callable[..., Any]] | None = None,
        on_failure: Callable[..., Any] | None = None,
        log_stdout: bool = False,
        result: Any = None,
        target: str | Callable[..., str] | None = None,
        task_run_name: str | Callable[..., str] | None = None,
        nout: int | None = None,
    ) -> None:
        self._warn_of_clashes()
        self._created = next(_creation)
        self.name = name or type(self).__name__
        self.slug = slug
        self.tags = self._own_tags(tags)
        signature = check_run_signature(self.run, f"{type(self).__name__}.run")
        self._run_signature: tuple[Any, inspect.Signature] | None = (getattr(self.run, "__func__", self.run), signature)
        self.nout = inferred_nout(self.run) if nout is None else checked_count(nout, f"nout of {self.name}")
        self._set_retries(max_retries, retry_delay, retry_on)
        self._set_timeout(timeout)
        if trigger is None:
            from heliograph.triggers import all_successful as trigger
        self.trigger = checked_trigger(trigger, self.name)
        self.skip_on_upstream_skip = skip_on_upstream_skip
        self._set_cache(cache_for, cache_validator, cache_key)
        self.checkpoint = checkpoint
        self.state_handlers = check_state_handlers(state_handlers, on_failure)
        self.log_stdout = log_stdout
        self._set_result(result, target)
        self.task_run_name = task_run_name

    def __repr__(self) -> str:
        return f"<Task: {self.name}>"

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.__dict__["_created"] = next(_creation)
        return new

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_run_signature"] = None  # made again when it is asked for
        return state

    if TYPE_CHECKING:

        def run(self, *args: Any, **kwargs: Any) -> Any:
            """Does the work. Subclasses override it with arguments of their own."""
    else:

        def run(self) -> Any:
            """Does the work. Subclasses override it; its arguments are the task's inputs, each by name."""

    @property
    def crossing_name(self) -> str:
        """The name as the control plane may see it: a name that was made from a constant does not show it there."""
        if self._generated_name is not None and self.name == self._generated_name[0]:
            return self._generated_name[1]
        return self.name

    @property
    def logger(self) -> logging.Logger:
        """The logger of this task; inside a mapped child its name carries the child's index."""
        from heliograph.logging import child_logger, get_logger

        index = context.get("map_index") if context.get("task_name") == self.name else None
        return get_logger(self.crossing_name) if index is None else child_logger(self.crossing_name, index)

    @property
    def run_signature(self) -> inspect.Signature:
        """The signature of `run`, as it is now."""
        run = getattr(self.run, "__func__", self.run)
        if self._run_signature is None or self._run_signature[0] is not run:
            self._run_signature = (run, inspect.signature(self.run))
        return self._run_signature[1]

    # --- copies and calls -------------------------------------------------------------------------------------------

    def copy(self, **task_args: Any) -> Self:
        """Returns a copy without the dependencies of this task.

        Args:
            **task_args: Attributes to set on the copy; `tags` are added to those that it has.

        Raises:
            AttributeError: A task has no such attribute.
        """
        new = self._duplicate(task_args)
        _note_created(new)
        return new

    def _duplicate(self, task_args: dict[str, Any]) -> Self:
        flow: Flow | None = context.get("flow")
        if flow is not None and self in flow.tasks and (flow.edges_to(self) or flow.edges_from(self)):
            warnings.warn(
                f"{self.name} has dependencies in flow {flow.name!r}; its copy does not have them", stacklevel=3
            )
        new = copy.copy(self)
        if new.slug and "slug" not in task_args:
            new.slug = f"{new.slug}-copy"
        new.tags = self._own_tags(self.tags)
        new.state_handlers = list(self.state_handlers)
        for attribute, value in task_args.items():
            if not hasattr(new, attribute):
                raise AttributeError(f"task {self.name} has no option {attribute!r}")
            if attribute == "tags":
                new.tags |= set(value)
            else:
                new._set_option(attribute, value)  # noqa: SLF001 - of this class
        created: dict[Task, None] = context.get("_created_tasks") or {}
        created.pop(self, None)  # it was the pattern of a copy, and so has been used
        return new

    def __call__(
        self,
        *args: Any,
        mapped: bool = False,
        task_args: Mapping[str, Any] | None = None,
        upstream_tasks: Iterable[Any] | None = None,
        flow: Flow | None = None,
        **kwargs: Any,
    ) -> Self:
        """Adds a copy of this task to the flow, bound to these inputs, and returns the copy.

        Args:
            *args: Inputs by position of `run`: tasks, constants, or collections of both.
            mapped: True to run once per element of the inputs that are not `unmapped`.
            task_args: Attributes to set on the copy.
            upstream_tasks: Tasks that must end first without giving a value.
            flow: The flow; the one of the enclosing `with Flow(…)` by default.
            **kwargs: Inputs by name.

        Raises:
            FlowError: No flow is being built here.
            TypeError: The inputs do not fit `run`.
        """
        new = self._duplicate(dict(task_args or {}))
        return new.bind(*args, mapped=mapped, upstream_tasks=upstream_tasks, flow=flow, **kwargs)

    def bind(
        self,
        *args: Any,
        mapped: bool = False,
        upstream_tasks: Iterable[Any] | None = None,
        flow: Flow | None = None,
        **kwargs: Any,
    ) -> Self:
        """Like a call, without making a copy. Returns this task."""
        inputs = self._inputs(args, kwargs)
        self._flow_for_edges(flow).set_dependencies(
            self, upstream_tasks=upstream_tasks, keyword_tasks=inputs, mapped=mapped
        )
        self.tags |= context.get("tags") or set()
        return self

    def map(
        self,
        *args: Any,
        upstream_tasks: Iterable[Any] | None = None,
        flow: Flow | None = None,
        task_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Adds a copy that runs once per element of its inputs; wrap in `unmapped` what every child gets whole.

        `upstream_tasks` are mapped too, unless they are wrapped in `unmapped`.

        Raises:
            TypeError: An input has no elements.
        """
        for value in itertools.chain(args, kwargs.values()):
            if not isinstance(value, EdgeAnnotation) and not hasattr(value, "__getitem__"):
                raise TypeError(
                    f"{self.name}.map cannot go over {_preview(value)}: a {type(value).__name__} has no elements by"
                    " index; make a list of it, or wrap it in unmapped() to give it whole to every child"
                )
        new = self._duplicate({"nout": None, **(task_args or {})})
        return new.bind(*args, mapped=True, upstream_tasks=upstream_tasks, flow=flow, **kwargs)

    def pipe(_heliograph_self, _heliograph_other: Any, /, **kwargs: Any) -> Any:  # noqa: N805 - leaves all keywords free
        """Calls `other` with this task as its first argument: `a.pipe(b, y=1)` is `b(a, y=1)`."""
        return _heliograph_other(_heliograph_self, **kwargs)

    # --- dependencies -----------------------------------------------------------------------------------------------

    def set_dependencies(
        self,
        flow: Flow | None = None,
        upstream_tasks: Iterable[Any] | None = None,
        downstream_tasks: Iterable[Any] | None = None,
        keyword_tasks: Mapping[str, Any] | None = None,
        mapped: bool = False,
        validate: bool | None = None,
    ) -> Self:
        """Adds edges to and from this task. Returns this task.

        Raises:
            FlowError: No flow is being built here and none was given.
        """
        self._flow_for_edges(flow).set_dependencies(
            self,
            upstream_tasks=upstream_tasks,
            downstream_tasks=downstream_tasks,
            keyword_tasks=keyword_tasks,
            mapped=mapped,
            validate=validate,
        )
        return self

    def set_upstream(self, task: Any, flow: Flow | None = None, key: str | None = None, mapped: bool = False) -> Self:
        """Makes this task wait for `task`, and take its result as argument `key` when given. Returns this task."""
        if key is None:
            return self.set_dependencies(flow=flow, upstream_tasks=[task], mapped=mapped)
        return self.set_dependencies(flow=flow, keyword_tasks={key: task}, mapped=mapped)

    def set_downstream(
        self, task: Task, flow: Flow | None = None, key: str | None = None, mapped: bool = False
    ) -> Self:
        """Makes `task` wait for this task, and take its result as argument `key` when given. Returns this task."""
        if key is None:
            task.set_dependencies(flow=self._flow_for_edges(flow), upstream_tasks=[self], mapped=mapped)
        else:
            task.set_dependencies(flow=self._flow_for_edges(flow), keyword_tasks={key: self}, mapped=mapped)
        return self

    # --- introspection ----------------------------------------------------------------------------------------------

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Returns the inputs of `run` by name, each with its `type`, and whether it is `required`."""
        return {
            name: {
                "type": Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation,
                "required": parameter.default is inspect.Parameter.empty,
            }
            for name, parameter in self.run_signature.parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }

    def outputs(self) -> Any:
        """Returns the return annotation of `run`."""
        annotation = self.run_signature.return_annotation
        return Any if annotation is inspect.Signature.empty else annotation

    def is_equal(self, other: Any) -> Task:
        """Returns a task whose result is `self == other`. The operator itself compares the task objects."""
        return self._operation("Equal", self, other)

    def is_not_equal(self, other: Any) -> Task:
        """Returns a task whose result is `self != other`."""
        return self._operation("NotEqual", self, other)

    def not_(self) -> Task:
        """Returns a task whose result is `not self`."""
        return self._operation("Not", self)

    def or_(self, other: Any) -> Task:
        """Returns a task whose result is `self or other`."""
        return self._operation("Or", self, other)

    # --- own helpers ------------------------------------------------------------------------------------------------

    @staticmethod
    def _own_tags(tags: Iterable[str] | None) -> set[str]:
        if isinstance(tags, str):
            raise TypeError(f"tags must be a set or list of words, not the text {tags!r}")
        return set(tags or ()) | (context.get("tags") or set())

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            inputs = dict(self.run_signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{self.name} cannot be called like this: {error}; it takes {self.run_signature}") from None
        for parameter in self.run_signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                inputs.update(inputs.pop(parameter.name, {}))
        return inputs

    def _flow_for_edges(self, flow: Flow | None) -> Flow:
        found: Flow | None = flow if flow is not None else context.get("flow")
        if found is None:
            raise FlowError(
                f"no flow is being built here, so {self.name} cannot be added to one",
                hint=f"call tasks inside `with Flow(…)`; to run the task alone, use `{self.name}.run(…)`",
            )
        return found

    def __iter__(self) -> Iterator[Any]:
        if self.nout is None:
            raise TypeError(
                f"{self.name} cannot be iterated while the flow is built: its result exists only at run time."
                " To unpack several results, give nout=… or a tuple return annotation; to go over elements, use .map()"
            )
        return (self[index] for index in range(self.nout))


def _preview(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
