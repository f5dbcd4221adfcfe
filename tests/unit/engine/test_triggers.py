"""Triggers."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph import triggers
from heliograph.context import context
from heliograph.core.edge import Edge
from heliograph.core.task import Task
from heliograph.engine import signals
from heliograph.engine.state import Failed, Mapped, Pending, Skipped, State, Success

good, bad, skipped = Success("g"), Failed("b"), Skipped("s")


def upstream(*states: State, mapped: bool = False) -> dict[Edge, State]:
    down = Task(name="down")
    return {Edge(Task(name=f"t{i}"), down, mapped=mapped): s for i, s in enumerate(states)}


PASS: list[tuple[Any, tuple[State, ...]]] = [
    (triggers.all_successful, (good, skipped)),
    (triggers.all_failed, (bad, bad)),
    (triggers.any_successful, (bad, skipped)),
    (triggers.any_failed, (bad, good)),
    (triggers.all_finished, (bad, good)),
    (triggers.always_run, (bad, bad)),
    (triggers.not_all_skipped, (good, skipped)),
    (triggers.some_failed(at_least=1, at_most=1), (bad, good, good)),
    (triggers.some_failed(at_most=0.5), (bad, good)),
    (triggers.some_successful(at_least=0.5), (good, bad)),
    (triggers.some_successful(), (bad,)),
]
REFUSE: list[tuple[Any, tuple[State, ...]]] = [
    (triggers.all_successful, (good, bad)),
    (triggers.all_failed, (bad, good)),
    (triggers.any_successful, (bad, bad)),
    (triggers.any_failed, (good, skipped)),
    (triggers.all_finished, (good, Pending())),
    (triggers.not_all_skipped, (good, bad)),
    (triggers.some_failed(at_least=2), (bad, good)),
    (triggers.some_failed(at_most=0.4), (bad, good)),
    (triggers.some_successful(at_least=0.6), (good, bad)),
    (triggers.some_successful(at_most=1), (good, good)),
]
EVERY = [triggers.all_successful, triggers.all_failed, triggers.any_successful, triggers.any_failed,
         triggers.all_finished, triggers.some_failed(at_least=1), triggers.some_successful(at_least=1)]  # fmt: skip


@pytest.mark.parametrize(("trigger", "states"), PASS)
def test_passes(trigger: Any, states: tuple[State, ...]) -> None:
    assert trigger(upstream(*states)) is True


@pytest.mark.parametrize(("trigger", "states"), REFUSE)
def test_refuses(trigger: Any, states: tuple[State, ...]) -> None:
    with pytest.raises(signals.TRIGGERFAIL):
        trigger(upstream(*states))


@pytest.mark.parametrize("trigger", EVERY)
def test_without_anything_upstream_they_pass(trigger: Any) -> None:
    assert trigger({}) is True


def test_all_skipped_skips() -> None:
    for states in ({}, upstream(skipped, skipped)):
        with pytest.raises(signals.SKIP):
            triggers.not_all_skipped(states)


def test_children_count_one_each_except_along_a_mapped_edge() -> None:
    parent = Mapped(map_states=[good, good, bad])
    assert triggers.some_failed(at_least=1, at_most=1)(upstream(parent))
    with pytest.raises(signals.TRIGGERFAIL):
        triggers.all_successful(upstream(parent))
    assert triggers.all_successful(upstream(parent, mapped=True))


def test_manual_only_pauses_until_resumed() -> None:
    with pytest.raises(signals.PAUSE):
        triggers.manual_only({})
    with context(resume=True):
        assert triggers.manual_only({}) is True
