"""The first process of a container, without a container: it takes its offer from a folder and ends with a word."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
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
from heliograph.client.client import Client
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.exceptions import HeliographError, UnauthenticatedError
from heliograph_agents import container
from heliograph_agents.launcher import RunSpec
from heliograph_agents.link import Link as AgentLink
from heliograph_agents.performer import spec_of
from heliograph_agents.run_directory import LaunchRecord, RunSettings, launch_record_text, parse_launch_record
from heliograph_agents.start_code import VARIABLE, Start, StartCodes

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

    def code(self, *, seconds: float = 60.0, take_record: bool = True) -> Start:
        """Makes a start code, as a launcher does whose infrastructure takes no files; the folder is not laid then."""
        token, launch = ((self.folder / name).read_text() for name in ("token", "launch.json"))
        if take_record:
            shutil.rmtree(self.folder)
        spec = parse_launch_record(launch).spec
        world = self.world

        async def ask() -> tuple[str, str]:
            link = AgentLink(world.plane.address, world.plane.token, None, insecure=False)
            try:
                codes = StartCodes(f"agents/{world.agent_name('c')}", link)
                return await codes.ask(spec.flow_run, spec.epoch, token, launch, {}, seconds)
            finally:
                await link.close()

        return Start(world.plane.address, *asyncio.run(ask()), seconds=seconds)

    def start_with(self, start: Start) -> subprocess.Popen[bytes]:
        """Starts what a container would that was given a start code."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "heliograph_agents.container", "--start", "--runs", str(self.runs)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**self.world.environment(), VARIABLE: start.text()},
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


def test_a_run_begins_with_a_start_code_that_is_worth_nothing_then(world: World) -> None:
    offer = Offer(world, LONG)
    start = offer.code()
    process = offer.start_with(start)
    eventually(offer.mark.exists, "the flow runs", 60)
    assert offer.start_with(start).wait(60) == container.EXIT_CODE_SPENT, offer.log.read_text()
    with Client(world.plane.address, start.code) as thief, pytest.raises(HeliographError):
        thief.get_flow_run(offer.run)
    flow = next(path for path in offer.runs.iterdir() if (path / "supervisor.json").exists())
    pid = json.loads((flow / "supervisor.json").read_text())["flow_pid"]
    assert start.code.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    world.client.cancel_flow_run(offer.run)
    assert process.wait(60) == container.EXIT_GOOD, offer.log.read_text()


def test_the_agents_own_run_token_is_worth_nothing_once_the_code_is_exchanged(world: World) -> None:
    offer = Offer(world, LONG)
    token = (offer.folder / "token").read_text()
    process = offer.start_with(offer.code())
    eventually(offer.mark.exists, "the flow runs", 60)
    with Client(world.plane.address, token) as before, pytest.raises(UnauthenticatedError):
        before.whoami()
    world.client.cancel_flow_run(offer.run)
    assert process.wait(60) == container.EXIT_GOOD, offer.log.read_text()


def test_an_agent_that_asks_again_gets_the_same_code(world: World) -> None:
    offer = Offer(world, GOOD)
    first = offer.code(take_record=False)
    assert offer.code() == first
    assert offer.start_with(first).wait(60) == container.EXIT_GOOD, offer.log.read_text()
    world.wait_for(offer.run, StateCode.SUCCESS)


@pytest.mark.parametrize("planted", ["another key", "another secret", "nonsense", "none"])
def test_a_start_that_is_none_starts_nothing(world: World, planted: str) -> None:
    offer = Offer(world, GOOD)
    start = offer.code()
    text = {
        "another key": replace(start, key="00" * 32).text(),
        "another secret": replace(start, code=start.code[:-4] + "0000").text(),
        "nonsense": "nonsense",
        "none": "",
    }[planted]
    wanted = container.EXIT_CODE_REFUSED if planted == "another secret" else container.EXIT_NO_OFFER
    process = subprocess.run(
        [sys.executable, "-m", "heliograph_agents.container", "--start", "--runs", str(offer.runs)],
        env={**world.environment(), VARIABLE: text}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == wanted, process.stderr
    assert start.key not in process.stderr
    assert start.code not in process.stderr


@pytest.mark.parametrize("damage", ["nothing", "torn"])
def test_a_container_without_an_offer_says_so(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    if damage == "torn":
        (tmp_path / "launch.json").write_text('{"spec":')
    assert container.main([str(tmp_path), "--runs", str(tmp_path / "runs")]) == container.EXIT_NO_OFFER
    assert "nothing to run" in capsys.readouterr().err
