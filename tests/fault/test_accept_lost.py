"""The control plane dies between committing an acceptance and answering it; two agents bear one name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fault.conftest import PLANTED
from tests.fault.flows import steps
from tests.support.history import witness
from tests.support.stack import Stack, wait_until

from heliograph.engine.codes import StateCode


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of which nothing is started yet."""
    created = Stack(tmp_path)
    created.environment["PYTHONPATH"] = str(PLANTED)
    yield created
    created.stop()


def acceptance_lost(stack: Stack, agents_bug: str, seconds: float = 90) -> None:
    """Loses the answer to the first acceptance, and brings the control plane back after the agent stopped asking."""
    stack.environment["HELIOGRAPH_PLANTED_BUG"] = "die_committed"
    stack.start_control_plane()
    control_plane = stack.control_plane
    assert control_plane is not None
    stack.environment["HELIOGRAPH_PLANTED_BUG"] = ""
    stack.register(steps(2))
    seen = stack.root / "witness.jsonl"
    run = stack.run("steps", f"witness={seen}", "seconds=0.01")
    # Not before: the command that made the run must have its answer when the control plane dies.
    stack.environment["HELIOGRAPH_PLANTED_BUG"] = agents_bug
    stack.start_agent(wait=False)  # it takes the run at once, and then nobody answers
    stack.environment["HELIOGRAPH_PLANTED_BUG"] = ""
    wait_until(lambda: control_plane.poll() is not None, "the control plane died")
    if agents_bug:
        wait_until(lambda: "was not accepted" in stack.log("agent-1"), "the agent stopped asking")
    stack.start_control_plane()
    stack.wait_for(run, StateCode.SUCCESS, seconds=seconds)
    assert [line.step for line in witness(seen)] == [0, 1], "it ran once"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("agents_bug", ["", "impatient"])
def test_a_run_starts_though_the_answer_to_its_acceptance_was_lost(stack: Stack, agents_bug: str) -> None:
    """The acceptance is repeated, or the lease is given back: in both cases the run starts, once, and soon."""
    acceptance_lost(stack, agents_bug)


@pytest.mark.timeout(120)
def test_an_agent_that_drops_an_unanswered_lease_is_found(stack: Stack) -> None:
    """The planted twin: the control plane holds the run for an agent that knows nothing of it."""
    with pytest.raises(AssertionError, match="is finished"):
        acceptance_lost(stack, "impatient_and_careless", seconds=5)


@pytest.mark.timeout(120)
def test_two_agents_of_one_name_on_two_hosts_start_each_run_once(stack: Stack) -> None:
    """Nobody stops them; each run is still leased to one of them."""
    stack.environment["HELIOGRAPH_PLANTED_BUG"] = ""
    stack.start_control_plane()
    stack.start_agent()
    first_home = stack.environment["HELIOGRAPH_HOME"]
    stack.environment["HELIOGRAPH_HOME"] = str(stack.root / "home" / "of-another-host")
    stack.start_agent()
    stack.environment["HELIOGRAPH_HOME"] = first_home
    stack.register(steps(1))
    runs = [stack.run("steps", f"witness={stack.root}/{number}.jsonl", "seconds=0.3") for number in range(6)]
    for number, run in enumerate(runs):
        found = stack.wait_for(run, StateCode.SUCCESS)
        assert (found.attempt, len(witness(stack.root / f"{number}.jsonl"))) == (1, 1)
