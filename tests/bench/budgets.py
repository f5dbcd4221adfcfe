"""The budgets of the product as data, and the table that ends `make bench`: every figure beside its budget.

Budgets are for a machine with two cores that does nothing else. A figure above its budget is told as missed and fails
nothing: on a busy machine times by the clock say as much about what else it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A limit. `least`: the figure must be at least this much, instead of at most."""

    limit: float
    unit: str
    least: bool = False

    def holds(self, value: float) -> bool:
        """True when the figure keeps to it."""
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:,.4g} {self.unit}"


BUDGETS = {
    "task in process": Budget(20, "µs"),
    "task with every state acknowledged": Budget(50, "µs"),
    "all states visible after the last task": Budget(1, "s"),
    "run created to first line, p50": Budget(30, "ms"),
    "run created to first line, p95": Budget(100, "ms"),
    "idle agent, processor": Budget(1, "% of a core"),
    "runs created a second": Budget(1_500, "/s", least=True),
    "acknowledged transitions a second": Budget(15_000, "/s", least=True),
    "claims a second": Budget(1_500, "/s", least=True),
    "claim at 1,500/s, p99": Budget(30, "ms"),
    "server with 1,000 idle agents, memory": Budget(250, "MB"),
    "server with 1,000 idle agents, processor": Budget(25, "% of a core"),
    "idle server, memory": Budget(120, "MB"),
    "idle agent, memory": Budget(80, "MB"),
    "memory of a local run": Budget(40, "MB"),
    "memory gained over 1,000 runs, server": Budget(30, "MB"),
    "memory gained over 1,000 runs, agent": Budget(10, "MB"),
    "memory gained over 1,000 runs, warm parent": Budget(10, "MB"),
    "driver of a map of 50,000, memory": Budget(500, "MB"),
    "import heliograph": Budget(250, "ms"),
    "heliograph --help": Budget(120, "ms"),
}

_measured: list[tuple[str, str, float]] = []


def measured(what: str, how: str, value: float) -> None:
    """Notes a figure for the table. `what`: a key of BUDGETS; `how`: what tells it from others of the same budget."""
    assert what in BUDGETS, what
    _measured.append((what, how, value))


def table() -> Iterator[str]:
    """The lines of the table: all figures that were measured, and the budgets of which none was; none without any."""
    if not _measured:
        return
    for what, budget in BUDGETS.items():
        found = [(how, value) for name, how, value in _measured if name == what]
        for how, value in found:
            judgement = "HELD" if budget.holds(value) else "MISSED"
            yield f"{judgement:12} {what}, {how}: {value:,.4g} (budget {budget})"
        if not found:
            yield f"{'NOT MEASURED':12} {what} (budget {budget})"
