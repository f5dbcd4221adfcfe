"""Where the values of task runs are kept, and where one is found that spares a run: results, targets, the cache.

The one rule what is kept with what is in `nodes`, read once per task; here it is done, and the sink is told where each
value went or why it was not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableSequence
from typing import Any

from heliograph.context import context
from heliograph.engine.cache_shelves import Shelf, find_cached
from heliograph.engine.nodes import NONE_VALUE, TaskFrame
from heliograph.engine.run_loop import RunLoop
from heliograph.engine.sink import StoredResult
from heliograph.engine.state import Cached, State, utc_now
from heliograph.engine.targets import Targets

_log = logging.getLogger("heliograph.TaskRunner")


class Keeper:
    """The values that one flow run keeps and finds.

    Args:
        loop: The flow run.
        parameters: The flow's parameters.

    Attributes:
        stored: Where values are, by number of the task run.
    """

    def __init__(self, loop: RunLoop, parameters: Mapping[str, Any]) -> None:
        self.loop = loop
        self.parameters = parameters
        self.targets = Targets()
        self.stored: dict[int, StoredResult] = {}

    def variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns what templates may name: the parameters, over them the context, over that the inputs."""
        return {**self.parameters, **context.to_dict(), **inputs}

    def find(self, frame: TaskFrame, inputs: dict[str, Any]) -> State | None:
        """Looks for the result in the target, then in the cache."""
        task = frame.node.task
        if task.target is not None:
            result = self._result_of(frame)
            if result is not None:
                variables = self.variables(inputs)
                location = result.format(**variables).location
                self.targets.check(frame, location, inputs)
                if result.exists(location):
                    known = result.read(location)
                    self._remember(frame, known, "Task '%s': not run, its result was found in %s.")
                    return Cached(f"Result found at task target {location}", result=known, cached_inputs=inputs)
        if task.cache_for is None:
            return None
        caches: dict[str, MutableSequence[Cached]] = self.loop.base_context["caches"]
        candidates = caches.get(task.cache_key or task.name, ())
        cached = find_cached(candidates, task.cache_validator, inputs, self.parameters)
        if cached is None:
            return None
        found = cached.load_result()
        _log.info("Task '%s': not run, its result was found in the cache.", self.loop.name_of(frame.run))
        return found

    def to_cache(self, frame: TaskFrame, state: State, inputs: dict[str, Any]) -> Cached:
        """Puts a success into the cache, and returns the state that it ends in by that."""
        task = frame.node.task
        assert task.cache_for is not None
        cached = Cached(
            state.message,
            result=state.stored if state.stored is not None else state.value,
            cached_inputs=inputs,
            cached_parameters=self.parameters,
            cached_result_expiration=utc_now() + task.cache_for,
            context=state.context,
        )
        with self.loop.condition:
            self.loop.base_context["caches"].setdefault(task.cache_key or task.name, Shelf()).insert(0, cached)
        return cached

    def _result_of(self, frame: TaskFrame) -> Any:
        """Returns the `Result` to look in and to write with: the target is its location."""
        task, result = frame.node.task, frame.node.result
        if result is None and task.target is not None:  # a target is looked for even when nothing is written
            result = task.result if task.result is not None else self.loop.base_context.get("_flow_result")
            if result is None or not getattr(result, "stores", False):
                return None
        if task.target is not None and result is not None:
            result = result.copy()
            result.location = task.target
        return result

    def keep(self, frame: TaskFrame, state: State, inputs: dict[str, Any]) -> bool:
        """Stores the value of a success, and tells the sink where it went or why it was not kept."""
        node, value = frame.node, state.result
        if node.result is None:
            if frame.map_index is None:
                self.loop.told(node.index, None, node.not_kept)
            return False
        if value is None:
            self.loop.told(node.index, frame.map_index, NONE_VALUE)
            return False
        variables, result = self.variables(inputs), self._result_of(frame)
        if frame.map_index is not None and result.location is not None:
            self.targets.check(frame, result.format(**variables).location, inputs)
        written = result.write(value, **variables)
        state.result = written
        self._remember(frame, written, "Task '%s': its result is kept in %s.")
        return True

    def _remember(self, frame: TaskFrame, result: Any, line: str) -> None:
        from heliograph.engine.results import describe

        stored = describe(result, result.size_bytes)
        level = logging.INFO if frame.map_index is None else logging.DEBUG  # a map may have many children
        _log.log(level, line, self.loop.name_of(frame.run), _place(stored), extra={"stays_local": True})
        self.stored[frame.run] = stored
        self.loop.told(frame.node.index, frame.map_index, stored)

    def tell_inputs(self, frame: TaskFrame) -> None:
        """Tells where the inputs of a child are, as far as they were kept."""
        if frame.map_index is None or not self.stored:
            return
        found: dict[str, StoredResult] = {}
        for item, source in zip(frame.node.inputs, self.loop.sources[frame.node.index], strict=True):
            upstream = source.children_of + frame.map_index if source.children_of >= 0 else item.upstream
            stored = self.stored.get(upstream)
            if item.key is not None and stored is not None:
                found[item.key] = stored
        if found:
            self.loop.sink.mapped_input(frame.node.index, frame.map_index, found)


def _place(stored: StoredResult) -> str:
    bucket = stored.config.get("bucket")
    return f"{bucket}/{stored.location}" if bucket else str(stored.location)
