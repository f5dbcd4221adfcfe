"""Runs in Python environments other than the agent's: of another minor version, where this machine has one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.agent.conftest import World
from tests.support.figures import Figure
from tests.support.pythons import SecondPython, second_python

from heliograph.engine.codes import FailureCode, StateCode

__all__ = ["second_python"]

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("environments")]

TELL = """
    import json, os, sys
    from heliograph import Flow, task
    from heliograph.run_configs import LocalRun

    @task
    def tell():
        with open({file!r}, "w") as file:
            told = dict(version=sys.version_info[:2], prefix=sys.prefix, paths=sys.path)
            json.dump(told | {{"venv": os.environ.get("VIRTUAL_ENV")}}, file)

    with Flow({name!r}, run_config=LocalRun({asked})) as flow:
        tell()
"""


def _told(world: World, name: str, asked: str = "") -> dict[str, Any]:
    """Runs a flow that tells where it runs."""
    file = world.folder / f"{name}.json"
    run = world.run(world.register(TELL.format(file=str(file), name=name, asked=asked), f"{name}.py"))
    world.wait_for(run, StateCode.SUCCESS, seconds=120)
    told: dict[str, Any] = json.loads(file.read_text())
    return told


def _warm_parents(world: World) -> list[str]:
    """Returns the interpreters of the warm parents of this world's agent."""
    [agent] = [agent for agent in world.agents if agent.poll() is None]
    children = psutil.Process(agent.pid).children()
    return [line[0] for one in children if "heliograph_agents.launchers.local.warm_parent" in (line := one.cmdline())]


def test_a_run_goes_to_the_environment_that_it_asks_for(
    world: World, second_python: SecondPython, figure: Figure
) -> None:
    world.start_agent("--environment", f"other={second_python.project}")
    own = _told(world, "own")
    assert (tuple(own["version"]), own["prefix"]) == (sys.version_info[:2], sys.prefix)
    for name, asked in (
        ("by_name", "environment='other'"),
        ("by_name_again", "environment='other'"),
        ("by_path", f"python={str(second_python.python)!r}"),
    ):
        told = _told(world, name, asked)
        assert (tuple(told["version"]), told["prefix"]) == (second_python.version, str(second_python.folder))
        assert told["venv"] == str(second_python.folder)
        assert not [path for path in told["paths"] if path.startswith(sys.prefix)], "nothing of the agent's is seen"
    assert sorted(_warm_parents(world)) == sorted([sys.executable, str(second_python.python)]), "one for each"
    versions = [".".join(map(str, version)) for version in (sys.version_info[:2], second_python.version)]
    figure(f"agent on Python {versions[0]}, runs in a uv project with Python {versions[1]}, 2 warm parents")


def test_a_pickle_of_another_python_is_refused_before_anything_is_launched(
    world: World, second_python: SecondPython
) -> None:
    python = second_python.project
    if not second_python.is_another_minor:
        python = _liar(world.folder / "liar", second_python.python)
    world.start_agent("--environment", f"other={python}")
    source = TELL.format(file=str(world.folder / "never"), name="pickled", asked="environment='other'")
    run = world.run(world.register(source, pickle=True))
    found = world.wait_for(run, StateCode.CRASHED)
    assert FailureCode(found.failure.reason) is FailureCode.PYTHON_MISMATCH
    here = ".".join(map(str, sys.version_info[:3]))
    assert f"the bundle is a pickle of Python {here}; environment other" in world.log()
    assert "Ask for an environment with Python 3." in world.log()
    assert not world.run_directory(run).exists()
    assert not (world.folder / "never").exists()


def test_an_environment_that_the_agent_does_not_have_is_said_with_what_to_do(world: World) -> None:
    world.start_agent()
    source = TELL.format(file=str(world.folder / "never"), name="lost", asked="environment='gpu'")
    found = world.wait_for(world.run(world.register(source)), StateCode.CRASHED)
    assert FailureCode(found.failure.reason) is FailureCode.LAUNCH_SETTINGS
    assert "the run asks for environment gpu; this agent has: none" in world.log()
    assert "--environment gpu=PATH" in world.log()
    assert "gpu" not in str(found), "the control plane does not learn what the agent's owner calls it"


def _liar(path: Path, python: Path) -> Path:
    """Returns an interpreter that claims to be of Python 3.99."""
    path.write_text(f'#!/bin/sh\n{python} "$@" | sed \'s/"python": "3[.0-9]*"/"python": "3.99.0"/\'\n')
    path.chmod(0o755)
    return path
