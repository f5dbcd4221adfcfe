"""What it costs to begin: `import heliograph` and `heliograph --help`, each a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest
from tests.bench.budgets import BUDGETS, measured
from tests.bench.calibration import slowness
from tests.bench.conftest import Say

pytestmark = pytest.mark.bench

COMMANDS = {
    "import heliograph": [sys.executable, "-c", "import heliograph"],
    "heliograph --help": [sys.executable, "-m", "heliograph.cli", "--help"],
}


@pytest.mark.parametrize("what", COMMANDS)
def test_the_cost_of_beginning(what: str, say: Say) -> None:
    spent, clock = [], []
    for _ in range(11):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(COMMANDS[what], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        clock.append((time.monotonic() - start) * 1e3)
        spent.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3)
    cpu, wall = sorted(spent)[5], sorted(clock)
    say(f"{what}, whole process: {cpu:.0f} ms of CPU; by the clock least {wall[0]:.0f}, median {wall[5]:.0f} ms")
    measured(what, "whole process, CPU", cpu)
    measured(what, "whole process, by the clock, median of 11", wall[5])
    assert cpu <= BUDGETS[what].limit * slowness()
