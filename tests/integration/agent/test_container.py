"""The first process of a container, without a container: it takes its offer from a folder and ends with a word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.integration.agent.conftest import World, eventually

from heliograph.api.v1 import agent_service_pb2 as pb
from heliograph.engine.codes import FailureCode, StateCode
from heliograph_agents import container
from heliograph_agents.launcher import RunSpec
from heliograph_agents.performer import spec_of
from heliograph_agents.run_directory import LaunchRecord, RunSettings, launch_record_text

GOOD = """
    from heliograph import Flow, task

    @task
    def say():
        print("from inside")
        return 1

    with Flow("inside") as flow:
        say()
"""

LONG = """
    import os, pathlib, time
    from heliograph import Flow, task

    @task
    def hold():
        pathlib.Path(os.environ["MARK"]).touch()
        time.sleep(600)

    with Flow("inside") as flow:
        hold()
"""


class Offer:
    """One attempt, leased and accepted as an agent does, in a folder as a launcher lays it for a container."""

    def __init__(self, world: World, source: str) -> None:
        self.world, self.folder, self.runs = world, world.folder / "offer", world.folder / "inside"
        self.mark, self.log = world.folder / "mark", world.folder / "container.log"
        self.run = world.run(world.register(source))
        spec, credentials = self._lease()
        settings = RunSettings(
            address=world.plane.address, agent="c", home=str(world.folder / "inner"),
            cache=str(world.folder / "cache"), env={"MARK": str(self.mark)}, show_output=True, container=True,
            grace_seconds=0.5,
        )  # fmt: skip
        self.folder.mkdir()
        record = LaunchRecord(spec, settings, credentials.incarnation, 1.0)
        (self.folder / "launch.json").write_text(launch_record_text(record))
        (self.folder / "token").write_text(credentials.run_token)

    def _lease(self) -> tuple[RunSpec, Any]:
        client, name = self.world.client, self.world.agent_name("c")
        agents = client.services.agents
        client.call(
            agents.RegisterAgent, pb.RegisterAgentRequest(agent_id=name, launcher="local", host=os.uname().nodename)
        )
        request = pb.LeaseFlowRunsRequest(
            agent=f"agents/{name}", request_id=uuid.uuid4().hex, max_runs=1, wait=Duration(seconds=10)
        )
        [lease] = client.call(agents.LeaseFlowRuns, request).leases
        accept = pb.AcceptFlowRunRequest(agent=f"agents/{name}", flow_run=lease.flow_run.name, epoch=lease.epoch)
        return replace(spec_of(lease)), client.call(agents.AcceptFlowRun, accept)

    def start(self) -> subprocess.Popen[bytes]:
        """Starts what a container would."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "heliograph_agents.container", str(self.folder), "--runs", str(self.runs),
                 "--termination-log", str(self.world.folder / "word")],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.world.environment(),
            )  # fmt: skip

    def word(self) -> dict[str, Any]:
        """Returns what it left for the infrastructure to show."""
        found: dict[str, Any] = json.loads((self.world.folder / "word").read_text())
        return found


def test_a_run_goes_from_offer_to_end(world: World) -> None:
    offer = Offer(world, GOOD)
    assert offer.start().wait(60) == container.EXIT_GOOD, offer.log.read_text()
    world.wait_for(offer.run, StateCode.SUCCESS)
    assert "from inside" in offer.log.read_text(), "the infrastructure shows the flow's output"
    assert offer.word()["state"] == StateCode.SUCCESS
    assert not (offer.folder / "token").exists()


def test_an_attempt_is_never_started_twice(world: World) -> None:
    offer = Offer(world, GOOD)
    token = (offer.folder / "token").read_text()
    assert offer.start().wait(60) == container.EXIT_GOOD, offer.log.read_text()
    (offer.folder / "token").write_text(token)
    assert offer.start().wait(60) == container.EXIT_STARTED_BEFORE


def test_a_place_that_is_taken_away_is_no_cancellation(world: World) -> None:
    offer = Offer(world, LONG)
    process = offer.start()
    eventually(offer.mark.exists, "the flow runs", 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == container.EXIT_CRASHED, offer.log.read_text()
    crashed = world.wait_for(offer.run, StateCode.CRASHED)
    assert crashed.failure.reason == FailureCode.EVICTED
    assert offer.word()["reason"] == FailureCode.EVICTED


def test_a_cancelled_run_is_cancelled(world: World) -> None:
    offer = Offer(world, LONG)
    process = offer.start()
    eventually(offer.mark.exists, "the flow runs", 60)
    world.client.cancel_flow_run(offer.run)
    assert process.wait(60) == container.EXIT_GOOD, offer.log.read_text()
    world.wait_for(offer.run, StateCode.CANCELLED)


@pytest.mark.parametrize("damage", ["nothing", "torn"])
def test_a_container_without_an_offer_says_so(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    if damage == "torn":
        (tmp_path / "launch.json").write_text('{"spec":')
    assert container.main([str(tmp_path), "--runs", str(tmp_path / "runs")]) == container.EXIT_NO_OFFER
    assert "nothing to run" in capsys.readouterr().err
