"""`heliograph dev` is killed with -9: nothing that it started stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.fault.conftest import PLANTED
from tests.support.stack import wait_until

SLEEPER = """
import pathlib, time
from heliograph import Flow, task

@task
def sleep():
    pathlib.Path({mark!r}).touch()
    time.sleep(300)

with Flow("sleeper") as flow:
    sleep()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder; what still has it in its environment is killed afterwards."""
    folder = tmp_path / "home"
    yield folder
    for process in _of(folder):
        process.kill()


def _of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HELIOGRAPH_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def dev_killed(home: Path, seconds: float = 60, **planted: str) -> None:
    """Kills `heliograph dev` while a flow runs, and looks for what is left."""
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH")}
    environment = {**kept, "HELIOGRAPH_HOME": str(home), "PYTHONUNBUFFERED": "1", **planted}
    command = [sys.executable, "-m", "heliograph.cli"]
    log = home / "dev.out"
    with log.open("wb") as output:
        dev = subprocess.Popen([*command, "dev", "--port", "0"], env=environment, stdout=output, stderr=output)
    wait_until(lambda: "Heliograph is up" in log.read_text() or dev.poll() is not None, "dev is up")
    found = re.search(r"a control plane on (\S+)", log.read_text())
    assert found, log.read_text()
    environment["HELIOGRAPH__CLIENT__ADDRESS"] = found[1]
    file, mark = home / "flows" / "sleeper.py", home / "runs"
    file.parent.mkdir()
    file.write_text(SLEEPER.format(mark=str(mark)))
    for arguments in (["register", str(file), "--project", "dev"], ["run", "dev/sleeper"]):
        subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
    wait_until(mark.exists, "the flow runs")
    assert len(_of(home)) >= 5, "dev, control plane, agent, warm parent, supervisor, flow"

    dev.kill()
    dev.wait()
    wait_until(lambda: not _of(home), "nothing stays", seconds=seconds)


def test_nothing_outlives_a_dev_that_is_killed(home: Path) -> None:
    """Control plane, agent, supervisor and flow end with it."""
    dev_killed(home)


def test_parts_that_do_not_watch_their_parent_are_found(home: Path) -> None:
    """The planted twin: the lifeline is not watched."""
    with pytest.raises(AssertionError, match="nothing stays"):
        dev_killed(home, 5, PYTHONPATH=str(PLANTED), HELIOGRAPH_PLANTED_BUG="cut_the_lifeline")
