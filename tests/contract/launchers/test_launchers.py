"""What every launcher promises, on its own infrastructure: once and never twice, adopted, ended, cleaned up."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.contract.launchers.ground import AgentDiesError, Ground

from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents.launcher import ExitKind, InfraExit, Liveness


async def test_a_run_goes_from_launch_to_end_and_leaves_nothing(ground: Ground) -> None:
    attempt = ground.attempt("pass")
    handle = await ground.launch(attempt)
    found = await ground.exit_of(handle)
    assert (found.kind, found.reason) == (ExitKind.FINISHED, None)
    assert ground.state(attempt.run) is StateCode.SUCCESS
    await ground.launcher.forget(handle)
    await ground.launcher.cleanup()
    assert await ground.launcher.list() == []
    assert await ground.remains(handle) == []


async def test_a_launch_is_done_once_however_often_it_is_asked_for(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handles = await asyncio.gather(*(ground.launch(attempt) for _ in range(4)))
    assert len(set(handles)) == 1
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    assert await ground.launch(attempt) == handles[0]
    assert await ground.launcher.list() == [handles[0]]
    ground.let_go()
    await ground.exit_of(handles[0])
    assert await ground.launch(attempt) == handles[0], "also when it has ended"
    assert isinstance(await ground.launcher.inspect(handles[0]), InfraExit)
    assert ground.state(attempt.run) is StateCode.SUCCESS


async def test_a_restarted_agent_finds_its_runs_and_sees_their_end(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    await ground.restart()
    assert await ground.launcher.list() == [handle]
    assert isinstance(await ground.launcher.inspect(handle), Liveness)
    ground.let_go()
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED
    await ground.restart()
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED, "the end outlives the agent too"


async def test_a_run_that_ended_while_no_agent_was_there_is_found(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    await ground.leave()
    ground.let_go()
    await ground.until(lambda: ground.state(attempt.run).is_finished, "the run ends by itself")
    await ground.restart()
    assert await ground.launcher.list() == [handle]
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED


async def test_agents_do_not_see_each_others_runs(ground: Ground) -> None:
    handle = await ground.launch(ground.attempt("hold"))
    other = ground.make_launcher("another")
    await other.open(ground.hints.append)
    try:
        assert await other.list() == []
    finally:
        await other.close()
    assert await ground.launcher.list() == [handle]


@pytest.mark.parametrize(
    ("what", "state", "reason"),
    [
        ("fail", StateCode.FAILED, None),
        ("exit", StateCode.CRASHED, FailureCode.EXIT_CODE),
        ("fault", StateCode.CRASHED, FailureCode.SIGNAL),
    ],
)
async def test_the_end_of_a_bad_run_is_told(
    ground: Ground, what: str, state: StateCode, reason: FailureCode | None
) -> None:
    attempt = ground.attempt(what)
    handle = await ground.launch(attempt)
    found = await ground.exit_of(handle)
    assert found.kind is ExitKind.FINISHED
    run = ground.client.get_flow_run(attempt.run)
    assert run.state == state
    code, number = {"fail": (1, None), "exit": (3, None), "fault": (None, 11)}[what]
    if ground.tells_how_it_ended:
        assert found.reason is reason
        assert found.hint or reason is None, "the agent's log says what it means"
        assert (found.exit_code, found.signal) == (code, number)
    if reason is not None:
        assert run.failure.reason == reason
        assert (run.failure.exit_code, run.failure.signal) == (code or 0, number or 0)


async def test_what_ignores_its_end_is_killed_after_the_grace_period(ground: Ground) -> None:
    attempt = ground.attempt("stubborn")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("ignoring"), "the flow ignores SIGTERM")
    for _ in range(2):
        await ground.launcher.stop(handle, abandon=False)
    await ground.exit_of(handle)
    assert not ground.alive(ground.marked("stubborn"))
    await ground.launcher.stop(handle, abandon=False)  # too late, and no error


async def test_an_abandoned_run_is_killed(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    await ground.launcher.stop(handle, abandon=True)
    found = await ground.exit_of(handle)
    assert found.kind in (ExitKind.LEASE_LOST, ExitKind.DIED)
    run = ground.client.get_flow_run(attempt.run)
    told = not ground.kills_silently and run.failure.reason == FailureCode.EVICTED
    assert told or not StateCode(run.state).is_finished, "it has reported nothing"


async def test_infrastructure_that_is_killed_is_noticed_and_nothing_survives(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    flow = ground.marked("hold")
    await ground.kill(handle)
    found = await ground.exit_of(handle)
    assert found.kind is ExitKind.DIED
    assert found.reason is not None
    assert found.hint
    assert not ground.alive(flow)
    assert await ground.exit_of(handle) == found, "the verdict stays"
    await ground.until(lambda: handle in ground.hints, "the launcher tells of it by itself")


async def test_a_run_whose_infrastructure_somebody_removed_is_missed_and_not_begun_again(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    flow = ground.marked("hold")
    await ground.vanish(handle)
    found = await ground.exit_of(handle)
    assert (found.kind, found.reason) == (ExitKind.DIED, FailureCode.INFRASTRUCTURE_DELETED)
    assert not ground.alive(flow)
    assert await ground.launch(attempt) == handle
    assert (await ground.exit_of(handle)).kind is ExitKind.DIED, "the same launch starts it no second time"


async def test_an_agent_killed_at_any_step_of_a_launch_starts_its_run_once(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ground.steps()
    for step, after in [(steps[0], False), *((step, True) for step in steps)]:
        attempt = ground.attempt("count")
        with monkeypatch.context() as patched:
            step.kill_agent(patched, after=after)
            with pytest.raises(AgentDiesError):
                await ground.launch(attempt)
        await ground.restart()
        handles = await ground.launcher.list()
        ended = [await ground.exit_of(handle) for handle in handles]
        if ExitKind.FINISHED not in [end.kind for end in ended]:
            assert {end.kind for end in ended} <= {ExitKind.NEVER_STARTED}, (step.name, after)
            for handle in handles:
                await ground.launcher.forget(handle)
            handles = [await ground.launch(ground.attempt_again(attempt))]
            assert (await ground.exit_of(handles[0])).kind is ExitKind.FINISHED
        assert ground.counted(attempt.run) == 1, (step.name, after)
        assert ground.state(attempt.run) is StateCode.SUCCESS
        for handle in handles:
            await ground.launcher.forget(handle)
            await ground.launcher.cleanup()
            assert await ground.remains(handle) == [], (step.name, after)
        assert await ground.launcher.list() == []


async def test_a_run_is_cancelled_while_the_agent_that_launched_it_is_gone(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.state(attempt.run) is StateCode.RUNNING, "the run is heard of")
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    await ground.leave()
    flow = ground.marked("hold")
    ground.client.cancel_flow_run(attempt.run)
    await ground.until(lambda: ground.state(attempt.run).is_finished, "the run ends without its agent")
    assert ground.state(attempt.run) is StateCode.CANCELLED
    await ground.until(lambda: not ground.alive(flow), "its process is gone")
    await ground.restart()
    assert await ground.launcher.list() == [handle]
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED


@pytest.mark.parametrize("wanted", [True, False], ids=["shown", "not shown"])
async def test_what_a_run_said_before_it_died_unheard_is_shown_on_this_side_where_wanted(
    ground: Ground, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    ground.early_lines = 200 if wanted else 0
    await ground.restart()
    attempt, handle, words = await ground.launch_dead()
    found = await ground.exit_of(handle)
    assert found.kind is ExitKind.DIED
    shown = [record for record in caplog.records if record.name == "heliograph.agent" and words in record.getMessage()]
    assert bool(shown) is wanted
    assert words not in str(found), "what is reported holds none of it"
    assert ground.state(attempt.run) is not StateCode.SUCCESS


async def test_a_run_goes_on_while_the_control_plane_is_away(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    handle = await ground.launch(attempt)
    await ground.until(lambda: ground.state(attempt.run) is StateCode.RUNNING, "the run is heard of")
    ground.plane.kill()
    try:
        ground.let_go()
        assert isinstance(await ground.launcher.inspect(handle), Liveness)
    finally:
        ground.plane.start()
    assert (await ground.exit_of(handle)).kind is ExitKind.FINISHED
    assert ground.state(attempt.run) is StateCode.SUCCESS


async def test_the_run_token_is_in_no_environment_and_no_argument(ground: Ground) -> None:
    attempt = ground.attempt("hold")
    await ground.launch(attempt)
    await ground.until(lambda: ground.marked("hold"), "the flow runs")
    assert _seen(attempt.credentials.run_token) == []
    careless = subprocess.Popen(["sleep", "60"], env={"TOKEN": attempt.credentials.run_token})  # noqa: ASYNC220 (a test may block)
    try:
        assert _seen(attempt.credentials.run_token) == [careless.pid], "it would be seen if it were there"
    finally:
        careless.kill()
        careless.wait()


def _seen(secret: str) -> list[int]:
    """Returns the processes of this host, those in containers too, that show a text in environment or arguments."""
    found = []
    for process in psutil.process_iter():
        folder = Path(f"/proc/{process.pid}")
        with suppress(OSError):
            if secret.encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes():
                found.append(process.pid)
    return found
