"""The control plane is restored from a backup under running agents: nobody is asked twice, and what is lost is told.

Three runs: one runs through backup and restore, one is started after the backup and runs through the restore, one is
started and ends between them. The backup knows the last two as waiting.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.support.figures import Figure
from tests.support.history import task_states, witness
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import StateCode

FILES = ("heliograph.db", "heliograph.db-logs")
STEPS = 60


def back_up(stack: Stack, to: Path) -> None:
    """Copies the store's files while the control plane runs."""
    to.mkdir()
    for name in FILES:
        with closing(sqlite3.connect(stack.data / name)) as source, closing(sqlite3.connect(to / name)) as target:
            source.backup(target)


def restore(stack: Stack, copy: Path, hold: int) -> None:
    """Kills the control plane, puts the copy in place and starts it again, as docs/backup.md says."""
    stack.kill_control_plane()
    for name in FILES:
        for part in ("", "-wal", "-shm"):
            (stack.data / f"{name}{part}").unlink(missing_ok=True)
        shutil.copy(copy / name, stack.data)
    stack.cli("server", "mark-restored", "--data-dir", str(stack.data), "--hold", str(hold))
    stack.start_control_plane()


def restored(stack: Stack, *, hold: int, pace: float = 0.2, watched: bool = True) -> str:
    """Restores a backup that is older than what three runs did; returns the figures.

    Args:
        stack: With one agent.
        hold: For how many seconds nothing of the backup is given out.
        pace: Seconds of a step. The last ones of the first two runs end after the restore, however long that takes.
        watched: Whether the second run is to be heard of while it runs.
    """
    stack.register(steps(STEPS))

    gate = stack.root / "gate"

    def begin(name: str, seconds: float, *more: str) -> tuple[str, Path]:
        seen = stack.root / f"{name}.jsonl"
        return stack.run("steps", f"witness={seen}", f"seconds={seconds}", *more), seen

    through, through_seen = begin("through", pace, f"gate={gate}")
    wait_until(lambda: len(witness(through_seen)) >= 2, "the first run is under way", seconds=60)
    agent = psutil.Process(stack.agents[-1].pid)
    agent.send_signal(signal.SIGSTOP)
    begun, begun_seen = begin("begun", pace, f"gate={gate}")
    ended, ended_seen = begin("ended", 0.0)
    back_up(stack, stack.root / "backup")
    agent.send_signal(signal.SIGCONT)
    stack.wait_for(ended, StateCode.SUCCESS)
    wait_until(lambda: len(witness(begun_seen)) >= 3, "the second run is under way", seconds=60)
    known = stack.cli("server", "status").stdout
    restore(stack, stack.root / "backup", hold)
    assert stack.cli("server", "status").stdout.splitlines()[2] != known.splitlines()[2], "it has a new identity"

    if watched:
        # The agent's word makes it Submitted; only the run itself says that it is Running.
        running = StateCode.RUNNING
        wait_until(lambda: stack.inspect(begun).state == running, "what runs is told while it runs", seconds=60)
    gate.touch()
    for run, seen in ((through, through_seen), (begun, begun_seen), (ended, ended_seen)):
        found = stack.wait_for(run, StateCode.SUCCESS, seconds=90)
        lines = witness(seen)
        assert [line.step for line in lines] == list(range(STEPS)), "each step ran once"
        assert len({line.pid for line in lines}) == 1, "in one process"
        assert found.attempt == 1
        stored = len({entry.sequence for entry in task_states(stack, run)})
        if run == ended:
            assert found.missing_events > 0, "what nobody has any more is counted"
            assert "missing" in stack.cli("runs", "why", run).stdout
        else:
            assert (found.missing_events, stored >= 2 * STEPS) == (0, True), "all was told again"
    assert stack.agents[-1].poll() is None, "the agent goes on by itself"
    fresh, fresh_seen = begin("fresh", 0.0)
    stack.wait_for(fresh, StateCode.SUCCESS)
    assert len(witness(fresh_seen)) == STEPS
    return "3 runs beyond the backup: 0 started twice, 0 states lost that anybody had, 1 hole told"


@pytest.mark.timeout(300)
def test_runs_go_on_over_a_restored_control_plane(make_stack: StackFactory, figure: Figure) -> None:
    figure(restored(make_stack(), hold=60))


@pytest.mark.timeout(300)
def test_an_agent_that_remembers_no_ends_is_found(make_stack: StackFactory) -> None:
    """The planted twin: a run that ended after the backup is started again."""
    with pytest.raises(AssertionError, match=r"each step ran once|the run is"):
        restored(make_stack(planted="remember_no_ends"), hold=8, pace=0.1, watched=False)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_run_that_keeps_its_forgotten_token_is_found(make_stack: StackFactory) -> None:
    """The planted twin: the run goes on, and the control plane hears nothing until it ends."""
    with pytest.raises(AssertionError, match="what runs is told"):
        restored(make_stack(planted="keep_the_old_token"), hold=60)
