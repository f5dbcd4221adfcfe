"""The agent is killed between every two steps of a launch: the run starts once, whatever the moment."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fault.conftest import PLANTED
from tests.integration.agent.conftest import World, eventually, plane, world

from heliograph.engine.codes import StateCode

__all__ = ["plane", "world"]

ONCE = """
    import os
    from heliograph import Flow, task

    @task
    def leave_a_mark():
        with open("ran", "a") as file:
            file.write(f"{os.getpid()}\\n")

    with Flow("once") as flow:
        leave_a_mark()
"""

MOMENTS = ("leased", "accepted", "writing", "asking", "asked", "launched", "reported")


def killed_at(world: World, moment: str, seconds: float = 20.0, **second: Any) -> None:
    """Has an agent die at that moment of its first launch, starts another of its name, and looks at the run."""
    planted: dict[str, Any] = {"PYTHONPATH": str(PLANTED)}
    first = world.start_agent(HELIOGRAPH_PLANTED_BUG=f"die_{moment}", **planted)
    run = world.run(world.register(ONCE))
    eventually(lambda: first.poll() is not None, "the agent died")
    assert first.returncode == 137, world.log()
    world.start_agent(**({**planted, **second} if second else {}))
    world.wait_for(run, StateCode.SUCCESS, seconds=seconds)
    assert len(world.marks("ran")) == 1, "it ran once"
    folder = world.run_directory(run).parent
    eventually(
        lambda: not list(folder.glob(".*")) and not list(folder.glob("*/token")), "no token is left behind", seconds=15
    )


@pytest.mark.timeout(90)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_starts_once_whenever_its_agent_is_killed(world: World, moment: str) -> None:
    """A new agent of the name launches it, adopts it or gives it back; nobody has to wait for a deadline."""
    killed_at(world, moment)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("moment", ["leased", "accepted"])
def test_an_agent_that_forgets_its_offers_is_found(world: World, moment: str) -> None:
    """The planted twin: what was accepted and not launched is nobody's business."""
    with pytest.raises(AssertionError, match="not within"):
        killed_at(world, moment, 6.0, HELIOGRAPH_PLANTED_BUG="forget_offers")
