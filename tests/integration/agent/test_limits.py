"""Limits of local runs, by control groups: memory, processes, processor share; memory alone where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fault.conftest import PLANTED
from tests.integration.agent.conftest import World, eventually, plane, world
from tests.support.figures import Figure

from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents import control_groups
from heliograph_agents.control_groups import Group, Limits

__all__ = ["plane", "world"]

pytestmark = pytest.mark.timeout(300)

TAKE = """
    import os, threading, time
    from heliograph import Flow, task
    from heliograph.run_configs import LocalRun

    @task
    def take():
        {body}

    with Flow({name!r}, run_config=LocalRun({asked})) as flow:
        take()
"""

EAT = "return len([bytearray(b'x' * 2**20) for _ in range({megabytes})])"
HOLD = "open('here', 'w').close()\n        while not os.path.exists('go'):\n            time.sleep(0.01)"
THREADS = (
    "many = [threading.Thread(target=time.sleep, args=(2,)) for _ in range(200)]\n"
    "        for one in many:\n            one.start()"
)


def _flow(world: World, name: str, body: str, asked: str = "") -> str:
    return world.run(world.register(TAKE.format(name=name, body=body, asked=asked), f"{name}.py"))


def _groups_of(run: str) -> list[Path]:
    return [folder for folder in Group(f"{run.rpartition('/')[2]}.1")._folders.values() if folder.exists()]


def _groups_can_be_made() -> bool:
    group = Group("probe")
    try:
        for folder in group._folders.values():
            folder.mkdir()
    except OSError:
        return False
    finally:
        group.remove()
    return bool(group._folders)


GROUPS = _groups_can_be_made()
"""Where they cannot, what is tested is what is done without."""


def _killed(world: World, run: str) -> Any:
    """Waits for the end of a run that takes more than its limit. Returns the run."""
    found = world.wait_for(run, StateCode.CRASHED, StateCode.FAILED, StateCode.SUCCESS, seconds=90)
    assert StateCode(found.state) is (StateCode.CRASHED if GROUPS else StateCode.FAILED), "it is killed"
    return found


def test_a_run_that_takes_more_memory_than_it_asked_for_is_killed_alone_and_told_why(
    world: World, figure: Figure
) -> None:
    world.start_agent()
    small = _flow(world, "small", EAT.format(megabytes=8), "mem_limit='256m'")
    world.wait_for(small, StateCode.SUCCESS, seconds=90)
    greedy = _flow(world, "greedy", EAT.format(megabytes=1024), "mem_limit='256m'")
    found = _killed(world, greedy)
    if not GROUPS:
        return  # a MemoryError of its own process
    assert FailureCode(found.failure.reason) is FailureCode.OUT_OF_MEMORY
    assert found.failure.signal == 9
    hint = "give it more, or let it hold less at a time"  # written when the control plane knows
    eventually(lambda: hint in world.run_files(greedy), "the hint is beside the run", 90)
    again = _flow(world, "again", EAT.format(megabytes=8))
    world.wait_for(again, StateCode.SUCCESS, seconds=90)
    assert [path for run in (small, greedy, again) for path in _groups_of(run)] == []
    figure("a run with 256 MiB that took 1 GiB was killed alone and told as OUT_OF_MEMORY; no control group left")


def test_the_owners_limits_are_for_runs_that_ask_for_nothing(world: World) -> None:
    world.start_agent("--memory", "256m", "--processes", "64")
    greedy = _flow(world, "greedy", EAT.format(megabytes=1024))
    found = _killed(world, greedy)
    assert (FailureCode(found.failure.reason) is FailureCode.OUT_OF_MEMORY) is GROUPS
    many = _flow(world, "many", THREADS)
    world.wait_for(many, *([StateCode.FAILED] if GROUPS else [StateCode.SUCCESS]), seconds=90)


def test_a_run_gets_the_share_of_a_processor_that_it_asked_for(world: World) -> None:
    """By what the kernel was told: whether it had to hold a run back, nobody can say on a machine with other work."""
    world.start_agent()
    run = _flow(world, "held", HOLD, "cpus=0.2, processes=50")
    eventually((world.folder / "here").exists, "the flow runs", 90)
    group = Group(f"{run.rpartition('/')[2]}.1")
    told = {path.name: path.read_text().split() for folder in group._folders.values() for path in folder.glob("*.*")}
    (world.folder / "go").touch()
    world.wait_for(run, StateCode.SUCCESS, seconds=90)
    if not GROUPS:
        assert "not limited: processors" in world.run_files(run)
        return
    assert (told.get("cpu.cfs_quota_us") or told["cpu.max"])[0] == "20000"
    assert told["pids.max"] == ["50"]
    assert _groups_of(run) == []


def test_a_run_is_limited_as_far_as_it_can_be_where_no_group_can_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start_agent(PYTHONPATH=str(PLANTED), HELIOGRAPH_PLANTED_BUG="no_control_groups")
    run = _flow(world, "greedy", EAT.format(megabytes=1024), "mem_limit='512m', processes=100")
    found = world.wait_for(run, StateCode.FAILED, seconds=90)
    (failed,) = world.client.list_task_runs(run)
    assert failed.failure.exception_class.endswith("MemoryError"), found
    words = world.run_files(run)
    assert "each process has the memory limit for itself" in words
    assert "not limited: processes" in words


def test_limits_that_are_read_and_not_set_are_found(world: World) -> None:
    """The planted twin."""
    world.start_agent(PYTHONPATH=str(PLANTED), HELIOGRAPH_PLANTED_BUG="limits_not_set")
    with pytest.raises(AssertionError, match="it is killed"):
        _killed(world, _flow(world, "greedy", EAT.format(megabytes=400), "mem_limit='256m'"))


class TestVersion2:
    """The files of a group of version 2, in a folder made like one: this machine may have version 1."""

    def _system(self, folder: Path, monkeypatch: pytest.MonkeyPatch, group: str) -> Path:
        base = folder / "fs" / group
        base.mkdir(parents=True)
        (folder / "fs" / "cgroup.controllers").write_text("cpu memory pids\n")
        (base / "cgroup.subtree_control").touch()
        (folder / "own").write_text(f"0::/{group}\n")
        monkeypatch.setattr(control_groups, "ROOT", folder / "fs")
        monkeypatch.setattr(control_groups, "OWN", folder / "own")
        return base

    def test_an_agent_steps_aside_and_hands_its_controllers_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = self._system(tmp_path, monkeypatch, "system.slice/heliograph.service")
        control_groups.prepare()
        assert (base / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
        assert (base / "heliograph-agent" / "cgroup.procs").exists()

    def test_a_runs_group_lies_beside_the_agents_and_has_its_limits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._system(tmp_path, monkeypatch, "heliograph.service/heliograph-agent")
        Group("r.1").make(Limits(cpu_millis=1500, memory_bytes=2**20, processes=9), 4711)
        folder = tmp_path / "fs" / "heliograph.service" / "heliograph-run-r.1"
        told = {path.name: path.read_text() for path in folder.iterdir()}
        assert told == {
            "memory.max": "1048576", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "150000 100000",
            "pids.max": "9", "cgroup.procs": "4711",
        }  # fmt: skip
        (folder / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
        assert Group("r.1").memory_kills() == 2

    def test_no_group_is_better_than_half_of_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own").write_text("4:memory:/x\n")
        (tmp_path / "fs" / "memory" / "x").mkdir(parents=True)
        monkeypatch.setattr(control_groups, "ROOT", tmp_path / "fs")
        monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
        with pytest.raises(OSError, match="no control groups"):
            Group("r.1").make(Limits(cpu_millis=1000, memory_bytes=2**20), 4711)
        assert list((tmp_path / "fs" / "memory" / "x").iterdir()) == []
