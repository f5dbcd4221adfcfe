"""The calibration loop that stands beside the figures, so that those of two machines, or of two moments, compare."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest
from tests.bench.budgets import table
from tests.bench.calibration import calibration

Say = Callable[[str], None]


@pytest.fixture(autouse=True)
def beside(request: pytest.FixtureRequest) -> None:
    """Tells the calibration once for each module."""
    key = f"calibrated {request.module.__name__}"
    if key not in request.session.__dict__:
        request.session.__dict__[key] = True
        with request.getfixturevalue("capsys").disabled():
            print(f"\n--- {request.module.__name__.rpartition('.')[2]}: calibration {calibration():.3f} µs")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Ends the run with every figure beside its budget."""
    if lines := list(table()):
        terminalreporter.section("budgets")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Prints a line past pytest's capture."""

    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)

    return print_line


def cpu_seconds(*processes: psutil.Process) -> float:
    """CPU time of processes so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def mebibytes(*processes: psutil.Process, kind: str = "pss") -> float:
    """Memory of processes: `pss` shares what is shared among those who share it, `uss` leaves it out."""
    return float(sum(getattr(process.memory_full_info(), kind) for process in processes)) / 2**20
