"""The local launcher by itself, with real supervisors and no control plane: starting, finding, stopping, removing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.agent.conftest import alive, kill

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.storage import LaunchSettings, launch_settings
from heliograph.storage.bundle import build_bundle
from heliograph.storage.load import load_flows
from heliograph.storage.local import Local
from heliograph_agents import processes
from heliograph_agents.launcher import (
    BundleSpec,
    Credentials,
    ExitKind,
    Handle,
    InfraExit,
    LaunchError,
    Liveness,
    RunSpec,
)
from heliograph_agents.launchers.local import parents
from heliograph_agents.launchers.local.environments import Environment, Found
from heliograph_agents.launchers.local.launcher import LocalLauncher
from heliograph_agents.run_directory import (
    FORMAT,
    ExitRecord,
    LaunchRecord,
    ProcessRecord,
    RunDirectory,
    RunSettings,
    remove_old,
)

CREDENTIALS = Credentials("hg_run_token", "incarnation", 15.0)
SOURCE = """
    import os, pathlib, time
    from heliograph import Flow, task

    @task
    def hold():
        mark = pathlib.Path(os.environ["MARK"])
        mark.with_suffix(".part").write_text(str(os.getpid()))
        mark.with_suffix(".part").rename(mark)
        while not pathlib.Path(os.environ["MARK"] + ".open").exists():
            time.sleep(0.01)
            if pathlib.Path(os.environ["MARK"] + ".fork").exists():
                pathlib.Path(os.environ["MARK"] + ".fork").unlink()
                daemon = f"echo $$ > {mark}.part; mv {mark}.part {mark}.daemon; exec sleep 60"
                if not os.fork():
                    os.setsid()
                    if not os.fork():
                        os.closerange(0, 1024)
                        os.chdir("/")
                        os.execve("/bin/sh", ["sh", "-c", daemon], {})
                    os._exit(0)

    with Flow("held") as flow:
        hold()
"""


class Ground:
    """A launcher in a folder, and the spec of a flow that holds until it is let go."""

    def __init__(self, folder: Path, *, warm: bool) -> None:
        self.folder, self.runs, self.mark = folder, folder / "runs", folder / "mark"
        settings = RunSettings(
            address="127.0.0.1:1", agent="a", home=str(folder / "home"), cache=str(folder / "cache"),
            env={"MARK": str(self.mark)}, work_dir=str(folder), grace_seconds=0.5,
        )  # fmt: skip
        self.launcher = LocalLauncher(settings, self.runs, warm=warm)
        self.hints: list[Handle] = []
        (folder / "source").mkdir()
        (folder / "source" / "flow.py").write_text(textwrap.dedent(SOURCE))
        [flow] = load_flows(folder / "source" / "flow.py")
        storage = Local(folder / "storage")
        bundle = build_bundle(flow)
        ref = storage.put_bundle(bundle, launch_settings(flow, storage))
        self.spec = RunSpec(
            "projects/p/flowRuns/0192-run", "projects/p/flows/held/versions/1", "calm-otter", 1, 1, "{}",
            BundleSpec("local", ref.location, ref.digest, ref.launch_digest, False, ref.python_version, ref.host),
            bundle.manifest.graph_hash, 0,
        )  # fmt: skip

    async def launch(self, **changes: object) -> Handle:
        return await self.launcher.launch(
            self.launcher.plan(replace(self.spec, **changes), None),
            CREDENTIALS,  # type: ignore[arg-type]
        )

    def let_go(self) -> None:
        Path(f"{self.mark}.open").touch()

    def directory(self, handle: Handle) -> RunDirectory:
        return RunDirectory(self.runs / handle.infrastructure)

    async def until(self, look: Callable[[], object], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not look():  # noqa: ASYNC110 (about other processes, which set no events)
                await asyncio.sleep(0.01)

    async def exit_of(self, handle: Handle) -> InfraExit:
        async with asyncio.timeout(60):
            while not isinstance(found := await self.launcher.inspect(handle), InfraExit):  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.01)
        return found


@pytest.fixture(params=["warm", "spawn"])
async def ground(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    made = Ground(tmp_path, warm=request.param == "warm")
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


async def test_a_launch_is_done_once_however_often_it_is_asked_for(ground: Ground) -> None:
    handle = await ground.launch()
    assert await ground.launch() == handle
    await ground.until(ground.mark.exists)
    record = ground.directory(handle).processes()
    assert record is not None
    assert int(ground.mark.read_text()) == record.flow_pid
    owners = processes.members(ground.directory(handle).path, 0)
    assert set(owners) <= {record.supervisor_pid, record.flow_pid}
    assert await ground.launcher.list() == [handle]
    assert await ground.launcher.inspect(handle) is Liveness.STARTING  # no control plane has answered it


async def test_a_supervisor_that_is_about_to_say_who_it_is_is_let_be(ground: Ground) -> None:
    """An agent that starts in the moment between the lock and the record finds a healthy launch."""
    record = LaunchRecord(ground.spec, ground.launcher._settings, "incarnation", 15.0)
    directory = RunDirectory.create(ground.runs, record, "hg_run_token")
    assert directory is not None
    handle = Handle(ground.spec.flow_run, ground.spec.epoch, directory.path.name)
    locked = f"exec 9>{directory.path}/lock; flock -n 9; echo locked; exec sleep 60"
    supervisor = await asyncio.create_subprocess_shell(locked, stdout=asyncio.subprocess.PIPE)
    try:
        assert supervisor.stdout is not None
        await supervisor.stdout.readline()
        looking = asyncio.create_task(ground.launcher.inspect(handle))
        done, _ = await asyncio.wait([looking], timeout=0.2)
        assert not done
        pid = supervisor.pid
        directory.write_processes(ProcessRecord(processes.boot_id(), pid, processes.start_time(pid)))
        assert await looking is Liveness.STARTING
        assert supervisor.returncode is None
    finally:
        supervisor.kill()
        await supervisor.wait()


async def test_a_daemon_that_left_everything_behind_goes_with_a_killed_supervisor(ground: Ground) -> None:
    """It has a session, an environment and descriptors of its own, and no ancestor of the run is left."""
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    record = ground.directory(handle).processes()
    assert record is not None
    daemon = Path(f"{ground.mark}.daemon")
    Path(f"{ground.mark}.fork").touch()  # noqa: ASYNC240 (a test may block)
    await ground.until(daemon.exists)
    pid = int(daemon.read_text())  # noqa: ASYNC240 (as above)
    assert alive(pid)
    kill(record.supervisor_pid)
    found = await ground.exit_of(handle)
    assert found.reason is FailureCode.SUPERVISOR_DIED
    assert not alive(pid)


async def test_an_abandoned_run_is_killed_and_says_so(ground: Ground) -> None:
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    flow = int(ground.mark.read_text())
    await ground.launcher.stop(handle, abandon=True)
    found = await ground.exit_of(handle)
    assert found.kind is ExitKind.LEASE_LOST
    assert not alive(flow)


async def test_a_dead_supervisor_is_noticed_and_nothing_survives_it(ground: Ground) -> None:
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    record = ground.directory(handle).processes()
    assert record is not None
    kill(record.supervisor_pid)
    found = await ground.exit_of(handle)
    assert (found.kind, found.reason) == (ExitKind.DIED, FailureCode.SUPERVISOR_DIED)
    assert not alive(record.flow_pid)
    assert await ground.launcher.outbox(handle) is not None
    assert await ground.exit_of(handle) == found
    await ground.launcher.forget(handle)
    assert await ground.launcher.list() == []
    assert not ground.directory(handle).token_file.exists()


async def test_a_run_of_another_boot_is_dead(ground: Ground) -> None:
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    directory = ground.directory(handle)
    record = directory.processes()
    assert record is not None
    kill(record.supervisor_pid)
    await ground.until(lambda: not alive(record.supervisor_pid))
    directory.write_processes(replace(record, boot_id="another"))
    found = await ground.exit_of(handle)
    assert found.reason is FailureCode.HOST_RESTARTED


@pytest.mark.parametrize("torn", ["exit.json", "supervisor.json"])
async def test_a_run_whose_files_a_loss_of_power_left_empty_is_dead(ground: Ground, torn: str) -> None:
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    directory = ground.directory(handle)
    record = directory.processes()
    assert record is not None
    kill(record.supervisor_pid)
    await ground.until(lambda: not alive(record.flow_pid))
    directory.write_processes(replace(record, boot_id="another"))
    (directory.path / torn).write_bytes(b"")
    found = await ground.exit_of(handle)
    assert (found.kind, found.reason) == (ExitKind.DIED, FailureCode.HOST_RESTARTED)
    assert found.time_micros, "somebody says when"


@pytest.mark.parametrize("ground", ["spawn"], indirect=True)
@pytest.mark.parametrize("left", [b"", b"\0" * 4096, b'{"spec": {', None])
async def test_an_attempt_whose_record_a_loss_of_power_left_torn_is_dealt_with_once(
    ground: Ground, left: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RunSettings("127.0.0.1:1", "a", str(ground.folder / "home"), str(ground.folder / "cache"))
    made = RunDirectory.create(ground.runs, LaunchRecord(ground.spec, settings, "incarnation", 15.0), "hg_run_token")
    assert made is not None
    (made.path / "launch.json").unlink()
    if left is not None:
        (made.path / "launch.json").write_bytes(left)
    begun = made.lock()
    assert begun is not None
    for _ in range(3):
        assert await ground.launcher.list() == []
    assert made.token_file.exists(), "something of it lives"
    assert len(caplog.records) == 1
    os.close(begun)
    caplog.clear()
    for _ in range(3):
        assert await ground.launcher.list() == []
    assert [record.getMessage() for record in caplog.records] == [
        f"{made.path} has no whole launch.json: it counts as never launched"
    ]
    assert not made.token_file.exists()
    found = await ground.launcher.inspect(Handle(ground.spec.flow_run, 1, made.path.name))
    assert isinstance(found, InfraExit)
    assert found.kind is ExitKind.NEVER_STARTED
    await ground.launcher.cleanup()


@pytest.mark.parametrize("ground", ["spawn"], indirect=True)
async def test_an_attempt_that_another_version_wrote_is_let_be(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    other = RunDirectory(ground.runs / "0192-run.1")
    other.path.mkdir()
    (other.path / "launch.json").write_text("{}")
    for _ in range(3):
        assert await ground.launcher.list() == []
    assert not other.has("forgotten")
    assert len(caplog.records) == 1


async def test_a_reused_pid_is_not_the_supervisor(ground: Ground) -> None:
    handle = await ground.launch()
    await ground.until(ground.mark.exists)
    directory = ground.directory(handle)
    record = directory.processes()
    assert record is not None
    kill(record.supervisor_pid)
    await ground.until(lambda: not alive(record.flow_pid))
    directory.write_processes(replace(record, supervisor_pid=1, supervisor_start=5))
    found = await ground.exit_of(handle)
    assert found.reason is FailureCode.SUPERVISOR_DIED


@pytest.mark.parametrize("ground", ["warm"], indirect=True)
class TestWarm:
    """What only the warm parent does."""

    async def test_one_of_another_environment_ends_when_nobody_asks_for_it(self, ground: Ground) -> None:
        settings = LaunchSettings(options={"python": sys.executable})
        handle = await ground.launcher.launch(ground.launcher.plan(ground.spec, settings), CREDENTIALS)
        await ground.until(ground.mark.exists)
        record = ground.directory(handle).processes()
        assert record is not None
        others = ground.launcher._others
        environment, found = Environment("", sys.executable), Found("3", "cpython", "0", FORMAT, ())
        now = time.monotonic()
        async with others.using(environment, found, now) as parent:
            assert isinstance(parent, parents.WarmParent)
            process = parent._process
            assert process is not None
            await others.end_idle(now + 3600, 600)
            assert process.poll() is None, "a launch is using it"
        await others.end_idle(now + 599, 600)
        assert (process.poll(), others.interpreters) == (None, (sys.executable,))
        await others.end_idle(now + 600, 600)
        assert process.poll() is not None
        assert others.interpreters == ()
        assert alive(record.flow_pid), "what it started goes on"

    async def test_the_kernel_tells_of_a_dead_supervisor_at_once(self, ground: Ground) -> None:
        handle = await ground.launch()
        await ground.until(ground.mark.exists)
        record = ground.directory(handle).processes()
        assert record is not None
        kill(record.supervisor_pid)
        await ground.until(lambda: handle in ground.hints)  # without this nobody looks: no agent is there

    async def test_new_distributions_get_a_new_warm_parent(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = ground.launcher._parent._process.pid  # type: ignore[union-attr]
        await ground.launch()
        assert ground.launcher._parent._process.pid == before  # type: ignore[union-attr]
        monkeypatch.setattr(parents, "environment_fingerprint", lambda *_: (("site-packages", 5),))
        await ground.launch(epoch=2)
        assert ground.launcher._parent._process.pid != before  # type: ignore[union-attr]
        for handle in await ground.launcher.list():
            await ground.until(lambda handle=handle: ground.directory(handle).processes() is not None)
        assert len(await ground.launcher.list()) == 2

    async def test_a_killed_warm_parent_is_replaced_and_its_supervisors_go_on(self, ground: Ground) -> None:
        first = await ground.launch()
        await ground.until(ground.mark.exists)
        kill(ground.launcher._parent._process.pid)  # type: ignore[union-attr]
        await ground.until(lambda: ground.launcher._parent._socket is None)  # type: ignore[union-attr]
        second = await ground.launch(epoch=2)
        for handle in (first, second):
            assert await ground.launcher.inspect(handle) is Liveness.STARTING
            await ground.until(lambda handle=handle: ground.directory(handle).processes() is not None)

    async def test_what_was_never_started_is_given_back(self, ground: Ground) -> None:
        handle = await ground.launch()
        directory = ground.directory(handle)
        await ground.until(ground.mark.exists)
        copy = ground.runs / "0193-other.1"
        copy.mkdir()
        data = json.loads((directory.path / "launch.json").read_text())
        data["spec"]["flow_run"] = "projects/p/flowRuns/0193-other"
        (copy / "launch.json").write_text(json.dumps(data))
        [other] = [h for h in await ground.launcher.list() if h != handle]
        found = await ground.exit_of(other)
        assert found.kind is ExitKind.NEVER_STARTED

    async def test_a_disk_that_cannot_be_written_refuses_the_launch(self, ground: Ground) -> None:
        ground.runs.rmdir()
        ground.runs.touch()
        with pytest.raises(LaunchError) as refused:
            await ground.launch()
        assert refused.value.failure is None, "another host may have room"
        ground.runs.unlink()
        ground.runs.mkdir()

    async def test_the_flow_ends_well_without_any_control_plane(self, ground: Ground) -> None:
        handle = await ground.launch()
        await ground.until(ground.mark.exists)
        ground.let_go()
        flow = int(ground.mark.read_text())
        await ground.until(lambda: not alive(flow))
        assert await ground.launcher.inspect(handle) is Liveness.STARTING  # its supervisor keeps what it could not ship
        await ground.launcher.stop(handle, abandon=True)
        assert (await ground.exit_of(handle)).kind is ExitKind.LEASE_LOST


def test_old_and_good_runs_are_removed_and_some_failed_ones_kept(tmp_path: Path) -> None:
    import os
    import time

    def make(name: str, state: StateCode, age: float) -> None:
        directory = RunDirectory(tmp_path / f"{name}.1")
        (directory.path / "outbox").mkdir(parents=True)
        directory.write_exit(ExitRecord(state=int(state)))
        directory.forget()
        then = time.time() - age
        os.utime(directory.path / "forgotten", (then, then))

    make("good", StateCode.SUCCESS, 1)
    for number in range(5):
        make(f"failed{number}", StateCode.FAILED, number + 1)
    make("ancient", StateCode.CRASHED, 10**6)
    (tmp_path / "live.1").mkdir()
    remove_old(tmp_path, keep_failed=3, keep_seconds=10**5, keep_bytes=10**6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["failed0.1", "failed1.1", "failed2.1", "live.1"]
    (tmp_path / "failed1.1" / "output.log").write_bytes(b"x" * 10**6)
    remove_old(tmp_path, keep_failed=3, keep_seconds=10**5, keep_bytes=10**6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["failed0.1", "live.1"], "the newest that fit"
