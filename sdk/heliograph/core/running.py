"""What a flow can be told to do: run here, be registered, be served by an agent, be drawn, saved, described.

Each method checks what the author can be told at once and then leads to the module that does the work, imported only
then: a flow container needs no client and a laptop no agent.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from heliograph.context import context
from heliograph.exceptions import InsideFlowBlockError, InvalidArgumentError, UnknownParameterError

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.engine.state import State
    from heliograph.schedules import ClockEvent

RUN_OPTIONS = frozenset(
    {"state", "task_states", "context", "task_contexts", "executor", "flow_run_id", "flow_run_name"}
)
"""Keywords of `flow.run()` that are not parameters."""


class RunMethods:
    """The verbs of `Flow`."""

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        run_on_schedule: bool | None = None,
        runner_cls: Any = None,
        **kwargs: Any,
    ) -> State | None:
        """Runs the flow in this process, without a control plane, until it is finished.

        With a schedule it waits for the next time, runs, and goes on so until there is none or Ctrl-C is pressed;
        `run_on_schedule=False` runs once, now.

        Args:
            parameters: Values by parameter name.
            run_on_schedule: Whether to obey the flow's schedule. Default True.
            runner_cls: Class in place of `heliograph.engine.flow_runner.FlowRunner`.
            **kwargs: More parameters by name, and `state`, `task_states` ({task: state}, those tasks do not run),
                `context`, `task_contexts`, `executor`, `flow_run_id`, `flow_run_name`.

        Returns:
            The final state; `state.result[task]` is the state of a task. It never raises because a task failed.
            None while a bundle is being loaded, or when a schedule has no time left.

        Raises:
            UnknownParameterError: The flow has no such parameter.
            MissingParameterError: A required parameter has no value.
            InsideFlowBlockError: The flow is still being built.
        """
        flow = cast("Flow", self)
        if _refused_while_loading(flow, "run"):
            return None
        _refuse_inside_block(flow, "run")
        if "return_tasks" in kwargs:
            raise UnknownParameterError(
                "flow.run() takes no return_tasks: the state of every task is in `state.result[task]`"
            )
        if parameters is not None and not isinstance(parameters, Mapping):
            raise TypeError(f"parameters must be a dictionary of values by name, not {type(parameters).__name__}")
        names = {parameter.name for parameter in flow.parameters()}
        given = dict(parameters or {})
        given.update({key: kwargs.pop(key) for key in list(kwargs) if key in names and key not in RUN_OPTIONS})
        unknown = [name for name in [*given, *kwargs] if name not in names and name not in RUN_OPTIONS]
        unknown += [name for name in given if name in RUN_OPTIONS and name not in names]
        if unknown:
            raise UnknownParameterError(
                f"flow {flow.name!r} has no parameter {', '.join(map(repr, sorted(unknown)))};"
                f" it has {', '.join(sorted(names)) or 'none'}"
            )
        if runner_cls is None:
            runner_cls = importlib.import_module("heliograph.engine.flow_runner").FlowRunner
        if flow.schedule is None or run_on_schedule is False:
            return _run_once(flow, runner_cls, given, kwargs, None)
        return _run_on_schedule(flow, runner_cls, given, kwargs)

    def register(
        self,
        project_name: str,
        build: bool = True,
        labels: Sequence[str] | None = None,
        set_schedule_active: bool = True,
        version_group_id: str | None = None,
        no_url: bool = False,
        idempotency_key: str | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Stores the flow's bundle in its storage and registers what the control plane may know of it.

        The same content again is the same version, and is not stored again.

        Args:
            project_name: The project, which must exist.
            build: Accepted for Prefect 1's sake, and without effect: what is stored already is not stored again.
            labels: Labels that an agent must have, besides those of the run config.
            set_schedule_active: False to leave a new schedule paused.
            version_group_id: Accepted and without effect: the versions of a flow are grouped by its name.
            no_url: Accepted and without effect.
            idempotency_key: Accepted and without effect: registration is idempotent by content.
            **kwargs: Options of `heliograph.client.registration.register_flow`: `pickle`, `client`, `quiet`, …

        Returns:
            The version's name, `projects/P/flows/F/versions/N`; None while a bundle is being loaded.

        Raises:
            InsideFlowBlockError: The flow is still being built.
            FlowError: The graph is not valid.
            InvalidArgumentError: A name, a tag or a clock is not one that the control plane can keep.
        """
        del build, version_group_id, no_url, idempotency_key
        flow = cast("Flow", self)
        if _refused_while_loading(flow, "register"):
            return None
        _refuse_inside_block(flow, "register")
        flow.validate()
        _check_names(flow)
        if flow.schedule is not None:
            from heliograph.schedules.expansion import validate_spec

            for clock in flow.schedule.clocks:
                validate_spec(clock.spec)
        from heliograph.client.registration import register_flow

        return register_flow(flow, project_name, labels=labels or (), set_schedule_active=set_schedule_active, **kwargs)

    def run_agent(self, show_flow_logs: bool = False, **kwargs: Any) -> None:
        """Runs a local agent in this process with the flow's labels, until Ctrl-C.

        Args:
            show_flow_logs: True to show the runs' output here.
            **kwargs: Options of `heliograph_agents.in_process.run_agent`.
        """
        flow = cast("Flow", self)
        if _refused_while_loading(flow, "run_agent"):
            return
        _refuse_inside_block(flow, "run_agent")
        # By name: the SDK does not depend on the agents, which depend on it.
        in_process = importlib.import_module("heliograph_agents.in_process")
        in_process.run_agent(flow, show_flow_logs=show_flow_logs, **kwargs)

    def visualize(
        self,
        flow_state: State | None = None,
        filename: str | Path | None = None,
        format: str | None = None,
        horizontal: bool = False,
    ) -> Any:
        """Draws the flow.

        Args:
            flow_state: A state that `run` returned, to colour the tasks by and to show the children of mapped ones.
            filename: File to write, without the format's suffix.
            format: `mermaid` or `text`: returns a text, with nothing to install. Otherwise a format of Graphviz (`pdf`
                by default), for which `heliograph[viz]` is needed, and the program `dot` to write a file.
            horizontal: True to draw from left to right.

        Returns:
            A text, or a `graphviz.Digraph`, which notebooks show.

        Raises:
            ImportError: The graphviz package is missing.
        """
        from heliograph.core.visualize import visualize

        return visualize(cast("Flow", self), flow_state, filename, format, horizontal)

    def diagnostics(self, include_secret_names: bool = False) -> str:
        """Returns versions, settings that differ and features of this flow as JSON text, without any value."""
        from heliograph.utilities.diagnostics import diagnostic_info

        return diagnostic_info(cast("Flow", self), include_secret_names=include_secret_names)

    def serialized_hash(self) -> str:
        """Returns a hash of the declared flow: tasks and their options, edges, parameters, schedule.

        It does not see the code inside the tasks; the bundle's digest does.
        """
        from heliograph.core.description import serialized_hash

        return serialized_hash(cast("Flow", self))

    def save(self, fpath: str | Path | None = None) -> str:
        """Pickles the flow into a file, by default in the product's folder, and returns its path."""
        from heliograph.core.saving import save

        return save(cast("Flow", self), fpath)

    @classmethod
    def load(cls, fpath: str | Path) -> Self:
        """Returns a flow from a file that `save` made, or by its name from the product's folder.

        A pickle runs code when it is loaded: load only files that you trust.

        Raises:
            PythonMismatchError: The file was made by another minor version of Python.
            LoadError: It holds no flow.
        """
        from heliograph.core.saving import load

        return cast("Self", load(fpath))


def _refused_while_loading(flow: Flow, verb: str) -> bool:
    """A script that runs or registers its flow must not do so again when an agent loads it."""
    if not context.get("loading_flow"):
        return False
    warnings.warn(
        f"flow.{verb}() of {flow.name!r} does nothing while the flow is being loaded; put it below"
        ' `if __name__ == "__main__":`',
        stacklevel=3,
    )
    return True


def _refuse_inside_block(flow: Flow, verb: str) -> None:
    building = context.get("flow")
    if building is not None:
        raise InsideFlowBlockError(
            f"flow.{verb}() of {flow.name!r} was called inside the `with` block of {building.name!r}",
            hint="end the block first: the flow is still being built",
        )


def _check_names(flow: Flow) -> None:
    """Refuses names that cannot cross, here, where they can be shown with their task."""
    from heliograph.utilities.names import check_name, name_problem

    check_name(flow.name, "flow")
    for task, slug in flow.slugs.items():
        words = {"name": task.crossing_name, "slug": slug, **{f"tag {tag!r}": tag for tag in task.tags}}
        for what, word in words.items():
            if problem := name_problem(word):
                raise InvalidArgumentError(
                    f"task {task.name!r} of flow {flow.name!r} cannot be registered: its {what} {problem}",
                    hint='give it another with @task(name="…")' if what == "name" else "",
                )


def _run_once(
    flow: Flow, runner_cls: Any, given: dict[str, Any], options: dict[str, Any], event: ClockEvent | None
) -> State:
    parameters = {**((event.parameter_defaults if event else None) or {}), **given}
    run_context = dict(options.get("context") or {})
    if event is not None:
        run_context.setdefault("scheduled_start_time", event.start_time)
    return cast("State", runner_cls(flow).run(parameters=parameters, **{**options, "context": run_context}))


def _run_on_schedule(flow: Flow, runner_cls: Any, given: dict[str, Any], options: dict[str, Any]) -> State | None:
    assert flow.schedule is not None
    state: State | None = None
    after = datetime.now(UTC)
    try:
        while events := flow.schedule.next(1, after=after, return_events=True):
            event = events[0]
            after = event.start_time
            _wait_until(flow, after)
            state = _run_once(flow, runner_cls, given, options, event)
            if state.is_cancelled():  # Ctrl-C, which the run took note of
                raise KeyboardInterrupt  # noqa: TRY301 - as if it had come while waiting
            after = max(after, datetime.now(UTC))
        print(f"The schedule of {flow.name!r} has no further time.")
    except KeyboardInterrupt:
        print(f"\nStopped waiting for the schedule of {flow.name!r}.")
    return state


def _wait_until(flow: Flow, time: datetime) -> None:
    seconds = (time - datetime.now(UTC)).total_seconds()
    if seconds <= 0:
        return
    print(
        f"Flow {flow.name!r} has a schedule: its next run is at {time.isoformat()}, in {seconds:,.0f} s."
        " Ctrl-C ends this; flow.run(run_on_schedule=False) runs now."
    )
    # Short waits: a laptop that slept, or a clock that was set, must not shift the time of the run.
    never = threading.Event()
    while (seconds := (time - datetime.now(UTC)).total_seconds()) > 0:
        never.wait(min(seconds, 30))
