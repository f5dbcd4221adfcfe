"""Runs through a real agent: they start, end, crash, are cancelled, and outlive whatever dies around them."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest
from tests.integration.agent.conftest import World, alive, eventually, kill

from heliograph.engine.codes import FailureCode, StateCode
from heliograph.reporting.lanes import STATES, LaneReader

QUICK = """
    from heliograph import Flow, Parameter, context, task

    @task
    def add(n):
        context.logger.info("adding to %s", n)
        return n + 1

    with Flow("quick") as flow:
        add(Parameter("n", default=1))
"""

GATED = """
    import os, pathlib, time
    from heliograph import Flow, task

    @task
    def hold():
        pathlib.Path("started").write_text(str(os.getpid()))
        while not pathlib.Path("open").exists():
            time.sleep(0.02)

    @task
    def after():
        pathlib.Path("after").write_text("x")

    with Flow("gated") as flow:
        after(upstream_tasks=[hold])
"""


def test_a_run_succeeds_and_its_lines_and_states_arrive(world: World) -> None:
    world.start_agent()
    run = world.run(world.register(QUICK), n=41)
    found = world.wait_for(run, StateCode.SUCCESS)
    states = [StateCode(record.state) for record in world.client.list_flow_run_states(run)]
    assert states == [StateCode.SCHEDULED, StateCode.SUBMITTED, StateCode.RUNNING, StateCode.SUCCESS]
    assert found.agent == f"agents/{world.agent_name()}"
    assert {StateCode(t.state) for t in world.client.list_task_runs(run)} == {StateCode.SUCCESS}
    lines = [entry.message for entry in world.client.list_logs(run)]
    assert "adding to 41" in lines
    directory = world.run_directory(run)
    eventually((directory / "forgotten").exists, "the end is reported")
    assert not (directory / "token").exists()


def test_secrets_of_the_agent_stay_with_it_and_files_are_private(world: World) -> None:
    world.start_agent("--env", "FROM_AGENT=yes", HELIOGRAPH__CLIENT__TOKEN=world.token)
    run = world.run(
        world.register("""
            import json, os, pathlib, time
            from heliograph import Flow, task

            @task
            def look():
                pathlib.Path("seen").write_text(json.dumps({
                    "env": dict(os.environ), "argv": pathlib.Path("/proc/self/cmdline").read_text(),
                    "born": pathlib.Path("/proc/self/environ").read_text(),
                    "parent": pathlib.Path(f"/proc/{os.getppid()}/environ").read_text(),
                }))
                while not pathlib.Path("open").exists():
                    time.sleep(0.02)

            with Flow("curious") as flow:
                look()
        """)
    )
    seen = json.loads(eventually(lambda: _whole(world.folder / "seen"), "the flow looked"))
    directory = world.run_directory(run)
    run_token = (directory / "token").read_text()
    assert run_token != world.token
    for where, text in seen.items():
        assert world.token not in str(text), where
        assert run_token not in str(text), where
    assert seen["env"]["FROM_AGENT"] == "yes"
    assert seen["env"]["HELIOGRAPH__CLIENT__TOKEN_FILE"] == str(directory / "token")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "token").stat().st_mode) == 0o600
    for path in directory.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    (world.folder / "open").touch()
    world.wait_for(run, StateCode.SUCCESS)


def _whole(path: Path) -> str:
    try:
        text = path.read_text()
        json.loads(text)
    except (OSError, ValueError):
        return ""
    return text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_flow_process_is_crashed_with_its_signal(world: World, number: int) -> None:
    world.start_agent()
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    eventually(lambda: world.client.get_flow_run(run).task_run_counts, "its state is told")
    _, flow = world.pids(run)
    kill(flow, number)
    found = world.wait_for(run, StateCode.CRASHED)
    assert found.failure.reason == FailureCode.SIGNAL
    assert found.failure.signal == number
    assert found.task_run_counts


def test_a_flow_process_that_exits_is_crashed_with_its_code(world: World) -> None:
    world.start_agent()
    run = world.run(
        world.register("""
            import os
            from heliograph import Flow, task

            @task
            def leave():
                os._exit(7)

            with Flow("leaver") as flow:
                leave()
        """)
    )
    found = world.wait_for(run, StateCode.CRASHED)
    assert (found.failure.reason, found.failure.exit_code) == (FailureCode.EXIT_CODE, 7)


def test_a_killed_supervisor_ends_the_flow_and_what_it_kept_arrives(world: World) -> None:
    world.start_agent()
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    supervisor, flow = world.pids(run)
    eventually(lambda: world.client.list_task_runs(run), "a state arrived")
    kill(supervisor, signal.SIGSTOP)  # from here on, nothing is shipped by it
    (world.folder / "open").touch()
    reader = LaneReader(world.run_directory(run) / "outbox", STATES)
    eventually(lambda: reader.last()[0] >= 3, "the flow goes on, and says so")
    kill(supervisor)
    found = world.wait_for(run, StateCode.CRASHED, StateCode.SUCCESS)
    eventually(lambda: not alive(flow), "the flow process died with its supervisor")
    states = {StateCode(task.state) for task in world.client.list_task_runs(run)}
    assert StateCode.SUCCESS in states, "what the supervisor never shipped, the agent did"
    if found.state == StateCode.CRASHED:
        assert found.failure.reason == FailureCode.SUPERVISOR_DIED


def test_a_killed_agent_leaves_its_run_and_the_next_one_adopts_it(world: World) -> None:
    agent = world.start_agent()
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    before = world.pids(run)
    agent.kill()
    agent.wait()
    world.start_agent()
    assert "adopting" in world.log()
    (world.folder / "open").touch()
    world.wait_for(run, StateCode.SUCCESS)
    assert world.pids(run) == before
    eventually((world.run_directory(run) / "forgotten").exists, "the new agent reported the end")
    assert world.client.get_flow_run(run).attempt == 1


def test_an_agent_that_comes_back_to_a_dead_run_reports_it(world: World) -> None:
    agent = world.start_agent()
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    agent.kill()
    agent.wait()
    supervisor, flow = world.pids(run)
    kill(supervisor)
    eventually(lambda: not alive(flow), "the flow process died with its supervisor")
    world.start_agent()
    found = world.wait_for(run, StateCode.CRASHED)
    assert found.failure.reason == FailureCode.SUPERVISOR_DIED


def test_a_run_goes_on_while_the_control_plane_is_away(mortal_world: World) -> None:
    world = mortal_world
    world.start_agent()
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    world.plane.kill()
    (world.folder / "open").touch()
    eventually(lambda: world.marks("after"), "the flow goes on without it")
    _, flow = world.pids(run)
    eventually(lambda: not alive(flow), "the flow ends without it")
    world.plane.start()
    found = world.wait_for(run, StateCode.SUCCESS)
    assert found.missing_events == 0
    for task in world.client.list_task_runs(run):
        assert task.state == StateCode.SUCCESS
    records = world.client.list_flow_run_states(run)
    assert records[-1].time.ToMicroseconds() < records[-1].receive_time.ToMicroseconds()
    assert "is away" in world.log()


STUBBORN = """
    import os, pathlib, signal, subprocess, sys, time
    from heliograph import Flow, task

    SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"

    def note(pid):
        with open("children", "a") as file:
            file.write(f"{pid}\\n")

    @task
    def stubborn():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        plain = subprocess.Popen([sys.executable, "-c", SLEEPER])
        note(plain.pid)
        apart = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
        note(apart.pid)
        stopped = subprocess.Popen([sys.executable, "-c", SLEEPER])
        stopped.send_signal(signal.SIGSTOP)
        note(stopped.pid)
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                note(os.getpid())
                time.sleep(600)
            os._exit(0)
        note(os.getpid())
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass

    with Flow("stubborn") as flow:
        stubborn()
"""


def test_cancel_ends_the_whole_tree_whatever_it_does(world: World) -> None:
    world.start_agent("--grace", "1")
    run = world.run(world.register(STUBBORN))
    eventually(lambda: len(world.marks("children")) == 5, "all children are there")
    children = [int(pid) for pid in world.marks("children")]
    assert all(map(alive, children))
    world.client.cancel_flow_run(run)
    found = world.wait_for(run, StateCode.CANCELLED)
    assert not [pid for pid in children if alive(pid)]
    assert found.cancel_requested


def test_cancel_of_a_willing_flow_is_quick(world: World) -> None:
    """It waits for no grace period: this one would outlast the test."""
    world.start_agent("--grace", "900")
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    world.client.cancel_flow_run(run)
    world.wait_for(run, StateCode.CANCELLED)
    assert not world.marks("after")


def test_a_flow_that_cannot_be_loaded_fails_with_the_reason(world: World) -> None:
    flow = world.register(QUICK)
    world.start_agent()
    [bundle] = (world.folder / "storage").rglob("bundle.tar")
    bundle.chmod(0o600)
    data = bytearray(bundle.read_bytes())
    data[data.index(b"n + 1")] = ord("m")
    bundle.write_bytes(bytes(data))
    found = world.wait_for(world.run(flow), StateCode.FAILED, StateCode.CRASHED)
    assert found.failure.reason == FailureCode.BUNDLE_CHANGED


def test_a_module_that_raises_fails_without_its_text(world: World) -> None:
    source = (
        QUICK
        + "\n    import os\n    if os.environ.get('HELIOGRAPH_RUN_DIRECTORY'):\n        raise ValueError('s3cr3t')\n"
    )
    flow = world.register(source)
    world.start_agent()
    found = world.wait_for(world.run(flow), StateCode.FAILED, StateCode.CRASHED)
    assert found.failure.reason == FailureCode.LOAD_FAILED
    assert found.failure.error_id
    assert "s3cr3t" not in str(found)


def test_two_agents_of_one_name_are_refused(world: World) -> None:
    world.start_agent()
    second = world.start_agent(wait=False)
    assert second.wait(20) == 6
    assert "runs here already" in world.log()


def test_a_refused_token_ends_the_agent_with_a_clear_message(world: World) -> None:
    world.token_file.write_text("hg_nonsense")
    agent = world.start_agent(wait=False)
    assert agent.wait(20) == 4
    assert "refuses this agent's token" in world.log()


def test_sigterm_drains_and_a_second_one_leaves_the_run_alone(world: World) -> None:
    agent = world.start_agent()
    run = world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    agent.terminate()
    eventually(lambda: "draining" in world.log(), "it drains")
    assert agent.poll() is None
    agent.terminate()
    assert agent.wait(60) == 0
    _, flow = world.pids(run)
    assert alive(flow)
    (world.folder / "open").touch()
    world.wait_for(run, StateCode.SUCCESS)


def test_a_drained_agent_leaves_after_its_last_run(world: World) -> None:
    agent = world.start_agent()
    world.run(world.register(GATED))
    eventually(lambda: world.marks("started"), "the task runs")
    agent.terminate()
    eventually(lambda: "draining" in world.log(), "it drains")
    (world.folder / "open").touch()
    assert agent.wait(60) == 0


def test_capacity_is_never_exceeded(world: World) -> None:
    world.start_agent("--capacity", "2")
    flow = world.register("""
        import os, time
        from heliograph import Flow, task

        @task
        def mark():
            with open("log", "a") as file:
                file.write("+\\n")
            time.sleep(0.2)
            with open("log", "a") as file:
                file.write("-\\n")

        with Flow("marker") as flow:
            mark()
    """)
    runs = [world.run(flow) for _ in range(6)]
    for run in runs:
        world.wait_for(run, StateCode.SUCCESS)
    level = highest = 0
    for mark in world.marks("log"):
        level += 1 if mark == "+" else -1
        highest = max(highest, level)
    assert highest == 2


def test_health_tells_whether_the_control_plane_answers(world: World) -> None:
    import urllib.error
    import urllib.request

    from tests.support.stack import free_port

    port = free_port()
    world.start_agent("--agent-address", f"http://127.0.0.1:{port}")
    for path in ("healthz", "readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/other")
    assert refused.value.code == 404
    refused.value.close()
    os.kill(world.agents[0].pid, signal.SIGTERM)


def test_prefects_spelling_starts_an_agent(world: World) -> None:
    import subprocess
    import sys

    run = world.run(world.register(QUICK))
    arguments = ["agent", "local", "start", "--name", world.agent_name("b"), "--max-polls", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "heliograph.cli", *arguments],
        env=world.environment(), cwd=world.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"agent {world.agent_name('b')} is registered" in done.stderr
    assert world.state(run) == StateCode.SUCCESS


def test_a_flow_runs_its_own_agent(world: World) -> None:
    import subprocess
    import sys

    source = (
        QUICK
        + "\n    if __name__ == '__main__':\n        flow.run_agent(show_flow_logs=True, name='own', max_polls=1)\n"
    )
    run = world.run(world.register(source))
    done = subprocess.run(
        [sys.executable, str(world.folder / "source" / "flow.py")],
        env=world.environment(), cwd=world.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert world.state(run) == StateCode.SUCCESS
    assert "adding to 1" in done.stdout
