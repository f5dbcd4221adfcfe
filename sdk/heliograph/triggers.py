"""Triggers: whether a task runs, given how the tasks upstream of it ended.

A trigger is a function from a dictionary of edges to states to True; it may raise a signal to choose the state, and
False or an exception mean TriggerFailed. It is asked when everything upstream ended and nothing upstream was skipped
(unless the task opted out of skips). The children of a mapped task count one each, except along a mapped edge. A task
without anything upstream runs under every trigger but `manual_only` and `not_all_skipped`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from heliograph.context import context
from heliograph.engine import signals
from heliograph.engine.state import State

if TYPE_CHECKING:
    from heliograph.core.edge import Edge

    UpstreamStates = Mapping[Edge, State]
    Trigger = Callable[[UpstreamStates], bool]
else:
    UpstreamStates = Mapping
    Trigger = Callable

__all__ = [
    "all_failed",
    "all_finished",
    "all_successful",
    "always_run",
    "any_failed",
    "any_successful",
    "manual_only",
    "not_all_skipped",
    "some_failed",
    "some_successful",
]


def _states(upstream_states: UpstreamStates) -> Iterator[State]:
    for edge, state in upstream_states.items():
        if state.is_mapped() and not edge.mapped:
            yield from state.map_states  # type: ignore[attr-defined]
        else:
            yield state


def all_finished(upstream_states: UpstreamStates) -> bool:
    """Runs once everything upstream ended, in whatever way."""
    if not all(state.is_finished() for state in _states(upstream_states)):
        raise signals.TRIGGERFAIL('Trigger was "all_finished" but some of the upstream tasks were not finished.')
    return True


def always_run(upstream_states: UpstreamStates) -> bool:
    """The same as `all_finished`."""
    return all_finished(upstream_states)


def manual_only(upstream_states: UpstreamStates) -> bool:  # noqa: ARG001 - the shape of a trigger
    """Pauses the task until somebody resumes it."""
    if context.get("resume"):
        return True
    raise signals.PAUSE('Trigger function is "manual_only"')


def all_successful(upstream_states: UpstreamStates) -> bool:
    """Runs if everything upstream succeeded: what tasks have by default."""
    if not all(state.is_successful() for state in _states(upstream_states)):
        raise signals.TRIGGERFAIL('Trigger was "all_successful" but some of the upstream tasks failed.')
    return True


def all_failed(upstream_states: UpstreamStates) -> bool:
    """Runs if everything upstream failed."""
    if not all(state.is_failed() for state in _states(upstream_states)):
        raise signals.TRIGGERFAIL('Trigger was "all_failed" but some of the upstream tasks succeeded.')
    return True


def any_successful(upstream_states: UpstreamStates) -> bool:
    """Runs if something upstream succeeded; a skipped task counts."""
    if upstream_states and not any(state.is_successful() for state in _states(upstream_states)):
        raise signals.TRIGGERFAIL('Trigger was "any_successful" but none of the upstream tasks succeeded.')
    return True


def any_failed(upstream_states: UpstreamStates) -> bool:
    """Runs if something upstream failed."""
    if upstream_states and not any(state.is_failed() for state in _states(upstream_states)):
        raise signals.TRIGGERFAIL('Trigger was "any_failed" but none of the upstream tasks failed.')
    return True


def not_all_skipped(upstream_states: UpstreamStates) -> bool:
    """Runs if everything upstream succeeded and not all of it was skipped; else the task is skipped, or fails."""
    states = list(_states(upstream_states))
    if all(state.is_skipped() for state in states):
        raise signals.SKIP("All upstream tasks were skipped.")
    if not all(state.is_successful() for state in states):
        raise signals.TRIGGERFAIL('Trigger was "not_all_skipped" but some of the upstream tasks failed.')
    return True


def _within(count: int, total: int, at_least: float | None, at_most: float | None) -> bool:
    # Below 1 a bound is a part of all states. 1 itself is one state, as whole numbers are.
    low = 0.0 if at_least is None else (at_least * total if at_least < 1 else at_least)
    high = float(total) if at_most is None else (at_most * total if at_most < 1 else at_most)
    return low <= count <= high


def some_failed(at_least: float | None = None, at_most: float | None = None) -> Trigger:
    """Makes a trigger that runs the task if some of the states upstream are failures.

    Args:
        at_least: Fewest failures, inclusive; below 1 a part of all states.
        at_most: Most failures, inclusive; below 1 a part of all states.
    """

    def trigger(upstream_states: UpstreamStates) -> bool:
        if not upstream_states:
            return True
        states = list(_states(upstream_states))
        failed = sum(state.is_failed() for state in states)
        if not _within(failed, len(states), at_least, at_most):
            raise signals.TRIGGERFAIL(
                f'Trigger was "some_failed" but {failed} of {len(states)} upstream states failed.'
            )
        return True

    trigger.__name__ = "some_failed"
    return trigger


def some_successful(at_least: float | None = None, at_most: float | None = None) -> Trigger:
    """Makes a trigger that runs the task if some of the states upstream are successes.

    Args:
        at_least: Fewest successes, inclusive; below 1 a part of all states.
        at_most: Most successes, inclusive; below 1 a part of all states.
    """

    def trigger(upstream_states: UpstreamStates) -> bool:
        if not upstream_states:
            return True
        states = list(_states(upstream_states))
        succeeded = sum(state.is_successful() for state in states)
        if not _within(succeeded, len(states), at_least, at_most):
            raise signals.TRIGGERFAIL(
                f'Trigger was "some_successful" but {succeeded} of {len(states)} upstream states succeeded.'
            )
        return True

    trigger.__name__ = "some_successful"
    return trigger
