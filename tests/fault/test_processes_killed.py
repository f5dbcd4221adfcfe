"""Agent, flow process and supervisor are killed with -9: the right thing survives, and the right thing is told."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.fault.conftest import StackFactory
from tests.fault.flows import steps
from tests.support.history import task_states, witness
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import FailureCode, StateCode

BRISK = "short_heartbeats"
"""No bug: agents say more often what they have, and hear sooner what became of them."""


def start(stack: Stack, *, count: int, seconds: float) -> tuple[str, Path]:
    """Registers and starts a chain of steps; returns run and witness file once three steps ran."""
    stack.register(steps(count))
    seen = stack.root / "witness.jsonl"
    run = stack.run("steps", f"witness={seen}", f"seconds={seconds}")
    wait_until(lambda: len(witness(seen)) >= 3, "three steps ran")
    return run, seen


def processes_of(stack: Stack, run: str) -> dict[str, Any]:
    """Returns the pids of a run's supervisor and flow process, as the agent's run directory has them."""
    (path,) = stack.home.glob(f"agent/agents/*/runs/{run}.*/supervisor.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def gone(pid: int) -> bool:
    """True when the process is gone, or only its corpse is left."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_agent(stack: Stack) -> None:
    """Kills the newest agent."""
    agent = stack.agents[-1]
    agent.kill()
    agent.wait()


# --- the agent ------------------------------------------------------------------------------------------------------


def agent_killed(stack: Stack, seconds: float = 90) -> None:
    """Kills the agent in the middle of a run and starts another one of the same name."""
    run, seen = start(stack, count=16, seconds=0.4)
    kill_agent(stack)
    at_kill = len(witness(seen))
    wait_until(lambda: len(witness(seen)) >= at_kill + 3, "the run goes on without an agent")

    stack.start_agent()
    wait_until(lambda: "adopting" in stack.log("agent-1"), "the run is adopted", seconds)
    found = stack.wait_for(run, StateCode.SUCCESS)
    assert found.attempt == 1
    lines = witness(seen)
    assert [line.step for line in lines] == list(range(16)), "each step ran once"
    assert len({line.pid for line in lines}) == 1, "in one process"
    wait_until(lambda: all(agent.running == 0 for agent in stack.agents_seen()), "its slot is free")


def test_a_run_outlives_its_agent_and_is_adopted(make_stack: StackFactory) -> None:
    """The run goes on, the next agent adopts it, nothing runs twice and the slot comes back."""
    agent_killed(make_stack(planted=BRISK))


def test_an_agent_that_adopts_nothing_is_found(make_stack: StackFactory) -> None:
    """The planted twin: a restarted agent forgets what it had."""
    with pytest.raises(AssertionError, match="the run is adopted"):
        agent_killed(make_stack(planted="adopt_nothing"), seconds=5)


# --- the flow process -----------------------------------------------------------------------------------------------


def flow_killed(stack: Stack) -> None:
    """Kills the flow process; the run must be Crashed, with signal and hint."""
    run, seen = start(stack, count=200, seconds=0.2)
    psutil.Process(processes_of(stack, run)["flow_pid"]).send_signal(signal.SIGKILL)
    found = stack.wait_for(run, StateCode.CRASHED)
    assert found.failure.reason == FailureCode.SIGNAL
    assert found.failure.signal == signal.SIGKILL
    told = {entry.slug for entry in task_states(stack, run) if entry.state is StateCode.RUNNING}
    assert len([slug for slug in told if slug.startswith("step")]) == len(witness(seen)), "all that ran was told"
    why = stack.cli("runs", "why", run).stdout
    assert "SIGKILL" in why, why


def test_a_killed_flow_is_crashed_with_its_signal_and_a_hint(make_stack: StackFactory) -> None:
    """`runs why` says which signal it was."""
    flow_killed(make_stack())


def test_a_supervisor_that_calls_every_end_a_success_is_found(make_stack: StackFactory) -> None:
    """The planted twin: the exit status is not looked at."""
    with pytest.raises(AssertionError, match="the run is SUCCESS"):
        flow_killed(make_stack(planted="every_end_is_success"))


# --- the supervisor -------------------------------------------------------------------------------------------------


def supervisor_killed(stack: Stack) -> None:
    """Freezes the supervisor so that states pile up in the outbox, then kills it."""
    run, seen = start(stack, count=200, seconds=0.2)
    pids = processes_of(stack, run)
    supervisor = psutil.Process(pids["supervisor_pid"])
    supervisor.suspend()
    frozen_at = len(witness(seen))
    wait_until(lambda: len(witness(seen)) >= frozen_at + 5, "the flow goes on beside a frozen supervisor")
    stored = len(task_states(stack, run))
    supervisor.kill()
    wait_until(lambda: gone(pids["flow_pid"]), "the flow ends with its supervisor", seconds=20)

    found = stack.wait_for(run, StateCode.CRASHED)
    assert found.failure.reason == FailureCode.SUPERVISOR_DIED
    entries = task_states(stack, run)
    assert len(entries) > stored, "what was not shipped has arrived"
    told = {entry.slug for entry in entries if entry.state is StateCode.RUNNING and entry.slug.startswith("step")}
    assert len(witness(seen)) - len(told) <= 1, "all that ran was told, but for the event of the very last moment"
    assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})


def test_a_killed_supervisor_takes_the_flow_along_and_loses_no_state(make_stack: StackFactory) -> None:
    """The flow ends, the run is Crashed, and the agent ships the rest of the outbox."""
    supervisor_killed(make_stack())


def test_an_agent_that_leaves_the_outbox_behind_is_found(make_stack: StackFactory) -> None:
    """The planted twin: the agent reports the crash without shipping what was left."""
    with pytest.raises(AssertionError, match=r"has arrived|was told"):
        supervisor_killed(make_stack(planted="leave_the_outbox"))


@pytest.mark.full  # the quick form of the kill storm finds it, too
def test_a_flow_that_survives_its_supervisor_is_found(make_stack: StackFactory) -> None:
    """The planted twin: the flow process is not bound to its supervisor's life."""
    with pytest.raises(AssertionError, match="ends with its supervisor"):
        supervisor_killed(make_stack(planted="outlive_the_supervisor"))


# --- the agent's token ----------------------------------------------------------------------------------------------


def token_revoked(stack: Stack, seconds: float = 90) -> None:
    """Revokes the agent's token while states wait beside a frozen supervisor, and kills that supervisor."""
    run, seen = start(stack, count=200, seconds=0.2)
    pids = processes_of(stack, run)
    supervisor = psutil.Process(pids["supervisor_pid"])
    supervisor.suspend()
    frozen_at = len(witness(seen))
    wait_until(lambda: len(witness(seen)) >= frozen_at + 5, "the flow goes on beside a frozen supervisor")
    (token,) = [token for token in stack.json("tokens", "ls") if token["principal"] == "services/agent-1"]
    agent = stack.agents[-1]
    psutil.Process(agent.pid).suspend()  # it learns of both at once
    stack.cli("tokens", "revoke", token["name"].rpartition("/")[2])
    supervisor.kill()
    psutil.Process(agent.pid).resume()
    wait_until(lambda: agent.poll() is not None, "the agent leaves")
    assert agent.returncode == 4, stack.log("agent-1")

    stack.start_agent()
    stack.wait_for(run, StateCode.CRASHED, seconds=seconds)
    told = {entry.slug for entry in task_states(stack, run) if entry.state is StateCode.RUNNING}
    told = {slug for slug in told if slug.startswith("step")}
    assert len(witness(seen)) - len(told) <= 1, "all that ran was told, but for the event of the very last moment"


def test_an_agent_whose_token_is_revoked_leaves_and_the_next_one_ships(make_stack: StackFactory) -> None:
    """The agent says why it leaves; what it could not ship is not thrown away."""
    token_revoked(make_stack(planted=BRISK))


def test_an_agent_that_gives_up_when_refused_is_found(make_stack: StackFactory) -> None:
    """The planted twin: a refusal of the token is taken for an answer about the run, and the outbox is removed."""
    with pytest.raises(AssertionError, match=r"was told|is finished"):
        token_revoked(make_stack(planted=f"{BRISK},give_up_when_refused"), seconds=6)
