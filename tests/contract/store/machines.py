"""What the models of the store share: how they are run, and what every one of them may do besides its own rules."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.contract.store.helpers import Bench

from heliograph.exceptions import HeliographError
from heliograph_control_plane.store import SqlStore, open_store
from heliograph_control_plane.store.pending import Pending

numbers = itertools.count(1)
"""For names: the examples of one test share a store."""


class StoreMachine(RuleBasedStateMachine):
    """Random calls on one store, which is closed and opened again in the middle.

    Attributes:
        other: Another control plane over the same database; on SQLite, whose file one process holds, the same one.
    """

    bench: Bench
    other: SqlStore

    def __init__(self) -> None:
        super().__init__()
        self.clock = self.bench.clock
        self.number = next(numbers)
        self.project = f"m{self.number}"
        self.store.create_project(self.project, "").result()

    @property
    def store(self) -> SqlStore:
        """The store that is open now."""
        return self.bench.store

    @property
    def stores(self) -> tuple[SqlStore, SqlStore]:
        """Two control planes."""
        return self.store, self.other if self.bench.store.kind == "postgresql" else self.store

    def attempt(self, call: Pending[Any], expected: type[HeliographError] | None = None) -> Any:
        """Waits for an answer, which must be a refusal of this kind, or none."""
        refusal: type[HeliographError] | None = None
        value = None
        try:
            value = call.result(60)
        except HeliographError as error:
            refusal = type(error)
        assert refusal is expected
        return value

    @rule(chance=st.integers(0, 5))
    def restart(self, chance: int) -> None:
        """Now and then, so that most of the time is not spent on it."""
        if chance == 5:
            self.bench.reopen()


def check(machine: type[StoreMachine], bench: Bench, examples: int, steps: int, *, shrink: bool = True) -> None:
    """Runs a model on a store. Without `shrink` a mistake is to be found: by the same examples every time."""
    other = open_store(bench.url, clock=bench.clock) if bench.store.kind == "postgresql" else bench.store
    kind = type(machine.__name__, (machine,), {"bench": bench, "other": other})
    try:
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=not shrink,
                suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            ),
        )  # fmt: skip
    finally:
        if bench.store.kind == "postgresql":
            other.close()
