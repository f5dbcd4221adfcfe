"""The power goes off under the embedded store: nothing acknowledged is lost, no file is broken.

The store itself works in a process of its own, whose writes and syncs are recorded; they are then played back up to
thousands of points, with sectors that were not synced lost at random.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fault.conftest import PLANTED
from tests.support.disk import Change, Disk, read_record
from tests.support.figures import Figure
from tests.support.forms import forms
from tests.support.power import Crash, Losses, crashes, examine, missing_lines

from heliograph_control_plane.store import open_store
from heliograph_control_plane.store.records import LogLine

CALLS = 30


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of databases are written."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


def work(folder: Path, *, planted: str = "", calls: int = CALLS, disk: Disk | None = None) -> tuple[list[Change], str]:
    """Has a process work on a store; returns what it did to its disk, and what it printed."""
    store = folder / "store"
    store.mkdir(parents=True, exist_ok=True)
    disk = disk or Disk(folder / "disk", str(store), recording=True)
    bug = {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": planted} if planted else {}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.store_load", str(store), str(calls)],
        env={**os.environ, **bug, **disk.environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    return read_record(disk.record), done.stdout.strip()


def lose_power(changes: list[Change], scratch: Path, points: int) -> Losses:
    """Lets the power go off at points all over the record."""
    losses = Losses()
    chosen = random.Random(points).choices(range(1, len(changes) + 1), k=points)
    for crash in crashes(changes, chosen, seed=points):
        examine(crash, scratch, losses)
    return losses


@forms("points", quick=2_000, full=50_000)
def test_a_power_loss_takes_nothing_that_was_acknowledged(
    tmp_path: Path, scratch: Path, points: int, figure: Figure
) -> None:
    changes, said = work(tmp_path)
    assert said == ""
    losses = lose_power(changes, scratch, points)
    figure(str(losses))
    assert (losses.lost, losses.corrupt, losses.corrupt_logs) == (0, 0, 0)


@pytest.mark.parametrize(("bug", "found"), [("sync_seldom", "lost"), ("never_sync", "corrupt")])
def test_a_store_that_syncs_too_little_is_found(tmp_path: Path, scratch: Path, bug: str, found: str) -> None:
    """The planted twins: `synchronous=NORMAL` loses commits, `OFF` breaks the file as well."""
    changes, _ = work(tmp_path, planted=bug, calls=15)
    losses = Losses()
    for crash in crashes(changes, range(len(changes) // 2, len(changes), 25), seed=1):
        examine(crash, scratch, losses)
        if getattr(losses, found):
            return
    pytest.fail(str(losses))


def test_log_lines_that_a_power_loss_took_show_as_a_gap(tmp_path: Path, scratch: Path) -> None:
    """Lines are synced with each checkpoint only. What is lost is counted when the next line comes."""
    changes, _ = work(tmp_path, calls=25)
    points = range(len(changes) // 2, len(changes), 7)
    crash, run, lost = next(found for crash in crashes(changes, points, 1) if (found := _lost_lines(crash, scratch)))
    store = open_store(f"sqlite:///{scratch / 'main.db'}")
    try:
        number = crash.acked["lines", run] + 1
        store.write_log_lines(run, 1, [LogLine(number, number, 20, "load", "after")]).result()
        lines = store.read_log_lines(run).result().lines
    finally:
        store.close()
    assert lines[-1].message == "after"
    assert lines[-1].dropped_before == lost


def _lost_lines(crash: Crash, scratch: Path) -> tuple[Crash, str, int] | None:
    for kind, run in crash.acked:
        if kind == "lines":
            crash.restore(scratch)
            lost = missing_lines(scratch / "main.db-logs", {(kind, run): crash.acked[kind, run]})
            if lost:
                crash.restore(scratch)
                return crash, run, lost
    return None
