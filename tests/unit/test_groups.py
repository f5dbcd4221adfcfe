"""The tests' own groups: what shares a part runs in one worker, under the name that it has alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GROUPED = """
import os, pathlib, pytest

@pytest.mark.parametrize("group", [pytest.param(g, marks=pytest.mark.xdist_group(g)) for g in ("one", "other")])
@pytest.mark.parametrize("number", range(8))
def test_it(group, number, request):
    with pathlib.Path(group).open("a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], request.node.nodeid, file=file)
"""


def test_tests_of_one_group_run_in_one_worker(tmp_path: Path) -> None:
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "tests.support.groups"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for group in ("one", "other"):
        lines = [line.split() for line in (tmp_path / group).read_text().splitlines()]
        assert len({worker for worker, _ in lines}) == 1
        assert {name for _, name in lines} == {f"test_grouped.py::test_it[{n}-{group}]" for n in range(8)}
