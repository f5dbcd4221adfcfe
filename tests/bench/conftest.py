"""The calibration loop that stands beside the figures, so that those of two machines, or of two moments, compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
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


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Prints a line past pytest's capture."""

    def print_line(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)

    return print_line
