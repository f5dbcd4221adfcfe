"""The supervisor that stands by in the warm parent, and its flow process: used, killed, left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.fault.conftest import PLANTED
from tests.integration.agent.conftest import alive, kill
from tests.integration.agent.test_launcher import Ground

from heliograph_agents import processes
from heliograph_agents.launcher import ExitKind

pytestmark = pytest.mark.skipif(not processes.LINUX, reason="only Linux forks from a warm parent")


class Standing(Ground):
    """A ground whose warm parent has a supervisor that stands by."""

    def parent(self) -> psutil.Process:
        process = self.launcher._parent._process  # type: ignore[union-attr]
        assert process is not None
        return psutil.Process(process.pid)

    def standing(self) -> list[int]:
        """Supervisor and flow process that stand by, both there and both asleep; empty before that."""
        for supervisor in self.parent().children():
            flows = supervisor.children()
            if flows and all(one.status() == psutil.STATUS_SLEEPING for one in (supervisor, *flows)):
                return [supervisor.pid, flows[0].pid]
        return []

    async def stands_by(self) -> tuple[int, int]:
        async with asyncio.timeout(60):
            while not (found := self.standing()):  # noqa: ASYNC110 (about other processes, which set no events)
                await asyncio.sleep(0.01)
        return found[0], found[1]


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Standing]:
    made = Standing(tmp_path, warm=True)
    await made.launcher.open(made.hints.append)
    try:
        yield made
    finally:
        for handle in await made.launcher.list():
            record = made.directory(handle).processes()
            for pid in (record.supervisor_pid, record.flow_pid) if record else ():
                if alive(pid):
                    kill(pid)
        await made.launcher.close()


async def test_a_launch_takes_what_stands_by_and_another_takes_its_place(ground: Standing) -> None:
    supervisor, flow = await ground.stands_by()
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    record = ground.directory(handle).processes()
    assert record is not None
    assert (record.supervisor_pid, record.flow_pid) == (supervisor, flow)
    assert int(ground.mark.read_text()) == flow
    owners = processes.members(ground.directory(handle).path, 0)
    assert sorted(owners) == sorted((supervisor, flow)), "the lock is held by both"
    await ground.until(lambda: len(ground.parent().children()) == 2)


async def test_launches_that_come_at_once_do_not_wait_for_it(ground: Standing) -> None:
    await ground.stands_by()
    handles = [await ground.launch(epoch=epoch) for epoch in range(1, 4)]
    for handle in handles:
        await ground.until(lambda handle=handle: ground.directory(handle).processes() is not None)
    records = [ground.directory(handle).processes() for handle in handles]
    assert len({record.flow_pid for record in records if record is not None}) == 3


@pytest.mark.parametrize("which", [0, 1], ids=["the supervisor", "its flow process"])
async def test_a_run_does_not_notice_that_what_stood_by_was_killed(ground: Standing, which: int) -> None:
    stood_by = await ground.stands_by()
    kill(stood_by[which])
    await ground.until(lambda: not alive(stood_by[which]))
    await ground.launch()
    await ground.until(ground.mark.exists)
    assert int(ground.mark.read_text()) not in stood_by


@pytest.mark.parametrize("how", ["killed", "closed"])
async def test_nothing_stands_by_without_its_warm_parent(ground: Standing, how: str) -> None:
    stood_by = await ground.stands_by()
    if how == "killed":
        kill(ground.parent().pid)
    else:
        await ground.launcher.close()
    await ground.until(lambda: not any(alive(pid) for pid in stood_by))


async def test_a_stop_that_comes_as_early_as_it_can_is_heard(ground: Standing) -> None:
    await ground.stands_by()
    handle = await ground.launch()
    await ground.until(lambda: ground.directory(handle).processes() is not None)
    await ground.launcher.stop(handle, abandon=True)
    assert (await ground.exit_of(handle)).kind is ExitKind.LEASE_LOST


@pytest.mark.parametrize("level", ["INFO", "ERROR"])
async def test_settings_of_the_run_hold_in_what_stood_by(ground: Standing, level: str) -> None:
    settings = ground.launcher._settings
    env = {**settings.env, "HELIOGRAPH__LOGGING__LEVEL": level}
    ground.launcher._settings = replace(settings, env=env)
    await ground.stands_by()
    await asyncio.sleep(0.2)  # it has warmed up
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    output = ground.directory(handle).output_file
    if level == "INFO":
        await ground.until(lambda: "Beginning flow run" in output.read_text())
    assert ("Beginning flow run" in output.read_text()) == (level == "INFO")
    assert "rehearsal" not in output.read_text()


async def test_as_many_stand_by_as_came_at_once_and_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short idling is planted: nobody wants to wait for 20 s."""
    monkeypatch.setenv("PYTHONPATH", str(PLANTED))
    monkeypatch.setenv("HELIOGRAPH_PLANTED_BUG", "idle_soon")
    ground = Standing(tmp_path, warm=True)
    await ground.launcher.open(ground.hints.append)
    try:
        await ground.stands_by()
        handles = [await ground.launch(epoch=epoch) for epoch in range(1, 4)]
        for handle in handles:
            await ground.until(lambda handle=handle: ground.directory(handle).processes() is not None)
            await ground.launcher.stop(handle, abandon=True)
            await ground.exit_of(handle)
        most = 0

        def let_go() -> bool:
            nonlocal most
            waiting = len(ground.parent().children())
            most = max(most, waiting)
            return most > 1 and waiting == 1

        await ground.until(let_go)
        assert most == 3, "one for each that came at once"
    finally:
        await ground.launcher.close()
