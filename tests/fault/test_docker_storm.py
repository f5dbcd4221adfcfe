"""Agents and containers are killed while runs go on in containers: none is lost, none begins twice, nothing crosses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fault.conftest import PLANTED
from tests.support.canary import Canaries
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.figures import Figure
from tests.support.runtime_image import runtime_image
from tests.support.stack import Stack, wait_until
from tests.support.tap import Tap

from heliograph.engine.codes import StateCode

__all__ = ["docker_engine", "runtime_image"]

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(900)]

WAIT_SECONDS = 240.0
STAYS = ("env", "text", "result", "label", "local_text")

FLOW = """
    import os, pathlib, time
    from heliograph import Flow, Parameter, task
    from heliograph.run_configs import DockerRun
    from heliograph.storage import Local

    SHARED = pathlib.Path({shared!r})

    @task
    def work(name):
        with (SHARED / "ran").open("a") as file:
            file.write(name + "\\n")
        (SHARED / ("here-" + name)).touch()
        print({local_text!r})
        while not (SHARED / "open").exists():
            time.sleep(0.02)
        if os.environ["CONFIGURED"] != {env!r} or name.startswith("fails"):
            raise ValueError({text!r})
        return {result!r}

    with Flow("storm") as flow:
        work(Parameter("name"))

    flow.storage = Local({storage!r}, host="")
    flow.run_config = DockerRun(image={image!r}, env={{"CONFIGURED": {env!r}}}, container_labels={{"note": {label!r}}})
"""


class Storm:
    """A stack whose agent launches containers; what it and they say to the control plane is kept."""

    def __init__(self, stack: Stack, tap: Tap, engine: DockerEngine, shared: Path) -> None:
        self.stack, self.tap, self.engine, self.shared = stack, tap, engine, shared
        self.canaries = Canaries()

    def register(self, image: str) -> None:
        """Registers the flow, with a canary wherever something must stay."""
        canaries = {slot: self.canaries[slot] for slot in STAYS}
        storage = str(self.shared.parent / "storage")
        self.stack.register(FLOW.format(shared=str(self.shared), storage=storage, image=image, **canaries))

    def run(self, name: str) -> str:
        """Creates a run."""
        return self.stack.run("storm", f"name={name}")

    def wait_for_flow(self, name: str) -> None:
        """Waits until a run's task is at work."""
        wait_until((self.shared / f"here-{name}").exists, f"{name} runs", WAIT_SECONDS)

    def kill_agent(self) -> None:
        """Kills the agent, and starts the next of its name."""
        agent = self.stack.agents.pop()
        agent.kill()
        agent.wait()
        self.stack.start_agent()

    def kill_container(self, run: str) -> None:
        """Kills the container of a run's first attempt."""
        client = self.engine.client()
        try:
            client.api.kill(f"heliograph-{run}-1")
        finally:
            client.close()


@contextmanager
def storm(folder: Path, engine: DockerEngine, image: str, **environment: str) -> Iterator[Storm]:
    """Starts a stack with an agent for containers."""
    shared, storage = folder / "shared", folder / "storage"
    for place in (shared, storage):
        place.mkdir()
    arguments = ["--type", "docker", "--network", "host", "--capacity", "3"]
    for place in (shared, storage):
        arguments += ["--volume", f"{place}:{place}"]
    stack = Stack(folder / "stack", agent_args=arguments, environment={**engine.environment, **environment})
    try:
        stack.start_control_plane()
        with Tap(stack.port) as tap:
            stack.agents_address = stack.environment["HELIOGRAPH__CLIENT__ADDRESS"] = f"127.0.0.1:{tap.port}"
            stack.start_agent()
            made = Storm(stack, tap, engine, shared)
            made.register(image)
            yield made
            (shared / "open").touch()
    finally:
        stack.stop()


def test_runs_in_containers_outlive_their_agents_and_nothing_of_theirs_crosses(
    tmp_path: Path, docker_engine: DockerEngine, runtime_image: str, figure: Figure
) -> None:
    with storm(tmp_path, docker_engine, runtime_image) as made:
        fails = f"fails-{made.canaries['crosses']}"
        runs = {name: made.run(name) for name in ("one", "victim", fails)}
        for name in runs:
            made.wait_for_flow(name)
        made.kill_agent()
        made.kill_container(runs["victim"])
        made.stack.wait_for(runs["victim"], StateCode.CRASHED, seconds=WAIT_SECONDS)
        runs |= {name: made.run(name) for name in ("four", "five", "six")}
        made.wait_for_flow("four")  # the others are being launched, or wait for a slot
        made.kill_agent()
        (made.shared / "open").touch()
        for name, run in runs.items():
            wanted = {"victim": StateCode.CRASHED, fails: StateCode.FAILED}.get(name, StateCode.SUCCESS)
            made.stack.wait_for(run, wanted, seconds=WAIT_SECONDS)
        begun = Counter((made.shared / "ran").read_text().split())
        assert begun == dict.fromkeys(runs, 1), "each began once"
        found = made.canaries.found_in([b"\0".join(made.tap.recorded())])
        assert found == {"crosses"}, "a parameter's value crosses, and is found; what must stay is not"
        size = sum(map(len, made.tap.recorded())) / 1e6
    figure(
        f"{len(runs)} runs in containers, 2 agents and 1 container killed: 0 lost, 0 begun twice; of {len(STAYS)} "
        f"canaries that must stay 0 in {size:.1f} MB that crossed"
    )


def test_an_agent_that_adopts_no_containers_is_found(
    tmp_path: Path, docker_engine: DockerEngine, runtime_image: str
) -> None:
    """The planted twin."""
    planted = {"PYTHONPATH": str(PLANTED), "HELIOGRAPH_PLANTED_BUG": "adopt_no_containers"}
    with storm(tmp_path, docker_engine, runtime_image, **planted) as made:
        run = made.run("victim")
        made.wait_for_flow("victim")
        made.kill_agent()
        made.kill_container(run)
        with pytest.raises(AssertionError, match="not within"):
            made.stack.wait_for(run, StateCode.CRASHED, seconds=20)
