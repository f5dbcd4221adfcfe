"""How the edges of a task become the states and values that its runs see, children of mapped tasks included."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from heliograph.engine.nodes import Node
from heliograph.engine.run_books import Source
from heliograph.engine.run_loop import RunLoop
from heliograph.engine.state import Mapped, State, Success

if TYPE_CHECKING:
    from heliograph.core.edge import Edge

_log = logging.getLogger("heliograph.FlowRunner")


class MappingError(TypeError):
    """A task cannot be mapped over what is upstream."""


def upstream_states(loop: RunLoop, node: Node, run: int) -> dict[Edge, State]:
    """Returns the state of each edge of a run; for a child, of its own element."""
    states: dict[Edge, State] = {}
    if run == node.index:
        for item in node.inputs:
            state = loop.states[item.upstream]
            if item.flattened and not item.mapped:
                state = _flat_state(loop, item.upstream, state)
            states[item.edge] = state
        return states
    index = run - loop.first_child[node.index]
    for item, source in zip(node.inputs, loop.sources[node.index], strict=True):
        if source.items is not None:
            states[item.edge] = Success(result=source.items[index])
        elif source.states is not None:
            states[item.edge] = source.states[index]
        elif source.children_of >= 0:
            states[item.edge] = loop.states[source.children_of + index]
        else:
            assert source.whole is not None
            states[item.edge] = source.whole
    return states


def plan_children(loop: RunLoop, node: Node) -> tuple[int, tuple[Source, ...]]:
    """Returns how many children a mapped task has, the shortest input deciding, and where they take inputs from.

    Raises:
        MappingError: Nothing upstream succeeded, or something has no elements by index.
    """
    counts: list[int] = []
    sources: list[Source] = []
    for item in node.inputs:
        state = loop.states[item.upstream]
        if not item.mapped:
            whole = _flat_state(loop, item.upstream, state) if item.flattened else state
            sources.append(Source(whole=whole))
        elif item.flattened:
            source, count = _flattened(loop, item.upstream, state)
            sources.append(source)
            counts += [count] if state.is_successful() else []
        elif isinstance(state, Mapped) and loop.first_child[item.upstream] >= 0:
            sources.append(Source(children_of=loop.first_child[item.upstream]))
            counts.append(loop.child_count[item.upstream])
        elif state.is_successful():
            values = _elements(state.load_result().result, loop.nodes[item.upstream].crossing_name)
            sources.append(Source(items=values))
            counts.append(len(values))
        else:
            sources.append(Source(whole=state))
    if not counts:
        raise MappingError("No upstream states can be mapped over.")
    return min(counts), tuple(sources)


def _elements(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, list | tuple | str | range):
        return value
    if not hasattr(value, "__getitem__") or not hasattr(value, "__len__"):
        raise MappingError(
            f"No upstream states can be mapped over: {name!r} gave a {type(value).__name__}, which has no"
            " elements by index; let it return a list."
        )
    try:
        return [value[index] for index in range(len(value))]
    except Exception as error:  # foreign __getitem__: dictionaries, frames, and whatever users map over
        raise MappingError(
            f"No upstream states can be mapped over: {name!r} gave a {type(value).__name__}, which has no elements by"
            f" index ({type(error).__name__}); let it return a list."
        ) from error


def _flattened(loop: RunLoop, upstream: int, state: State) -> tuple[Source, int]:
    """Removes one level of nesting. Elements of failed and skipped children are those children's states."""
    if not state.is_successful():
        return Source(whole=state), 0
    if not isinstance(state, Mapped):
        values = _flat_values(_elements(state.load_result().result, loop.nodes[upstream].crossing_name))
        return Source(items=values), len(values)
    flat: list[Any] = []
    plain = True
    for child in state.map_states:
        if child.__class__ is Success or (child.is_successful() and not child.is_skipped()):
            flat.extend(_flat_values([child.load_result().result]))
        else:
            plain = False
            flat.append(_Passed(child))
    if plain:
        return Source(items=flat), len(flat)
    states = [item.state if isinstance(item, _Passed) else Success(result=item) for item in flat]
    return Source(states=states), len(states)


class _Passed:
    def __init__(self, state: State) -> None:
        self.state = state


def _flat_values(values: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        try:
            flat.extend(value)
        except TypeError:
            line = "flatten() passed on a %s, which has no elements, as it is."
            _log.warning(line, type(value).__name__, extra={"stays_local": True})
            flat.append(value)
    return flat


def _flat_state(loop: RunLoop, upstream: int, state: State) -> State:
    """The state that an edge sees which is flattened and not mapped."""
    if not state.is_successful():
        return state
    source, _ = _flattened(loop, upstream, state)
    if source.items is not None:
        return Success(state.message, result=list(source.items))
    assert source.states is not None
    return Mapped(state.message, map_states=source.states)
