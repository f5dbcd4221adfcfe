"""A control plane that wants to run its own work: all of it is refused or harmless, and good work still runs.

What it could gain is witnessed where it would show: the bucket writes down every object that is fetched, and the code
of every flow and pickle leaves a mark when it is executed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.support.evil_plane import ACCEPTED, Bucket, EvilPlane, Seen
from tests.support.evil_work import BAD, Bad, Work, faults_of
from tests.support.stack import wait_until

from heliograph.api.v1 import agent_service_pb2 as agents
from heliograph.api.v1.run_reporting_service_pb2 import RunEventAck
from heliograph.signing import TrustStore

POLICY = """
    projects = ["etl"]
    flows = ["etl/good"]
    storages = ["s3://bundles/prod/"]
    env = ["APP_*"]
    mounts = []
    options = []
    max_cpu = 2
    max_memory = "1 GiB"
    pickles = false
"""

GATE_REMOVED = """
    from heliograph_agents.gate import Gate
    async def admit(self, spec):
        return None
    Gate.admit = admit
"""

POLICY_AFTER_FETCH = """
    from heliograph_agents import gate
    from heliograph_agents.bundles import settings_of
    asked = gate.Gate.admit
    async def admit(self, spec):
        try:
            settings_of(spec.bundle, self._cache)
        except Exception:
            pass
        return await asked(self, spec)
    gate.Gate.admit = admit
"""

DOOR_REMOVED = """
    from heliograph_agents import door
    door.check_lease = lambda lease: None
    door.is_named = lambda lease: True
"""


class World(Work):
    """An agent with a policy and a trusted key, the control plane that it has to do with, and the storage of both."""

    def __init__(self, folder: Path, planted: str = "") -> None:
        super().__init__(folder)
        self.plane, self.bucket = EvilPlane(), Bucket(folder / "buckets")
        self.home = folder / "home"
        TrustStore(self.home / "keys" / "trusted").add("ann", self.key.public)
        (self.home / "policy.toml").write_text(textwrap.dedent(POLICY))
        self.agent = self._start(planted)

    def _start(self, planted: str) -> subprocess.Popen[bytes]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("HELIOGRAPH", "AWS_"))}
        program = f"{textwrap.dedent(planted)}\nfrom heliograph.cli.main import main\nmain()"
        with (self.folder / "agent.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", program, "agent", "start", "--name", "a", "--capacity", "4"],
                env={
                    **kept,
                    "HELIOGRAPH_HOME": str(self.home),
                    "HELIOGRAPH__CLIENT__ADDRESS": self.plane.address,
                    "HELIOGRAPH__CLIENT__TOKEN": "hg_agent",
                    "AWS_ENDPOINT_URL": self.bucket.address,
                    "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-west-1",
                    "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
                },
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def run_good_work(self) -> None:
        """Has good work run to its end: the agent lives, and takes nothing amiss."""
        self.mark.unlink(missing_ok=True)
        lease = self.sign(self.lease())
        self.plane.offer(lease)
        seen = self.plane.wait_for(lease.flow_run.name)
        assert not seen.refusal, f"{seen}\n{self.log()}"
        assert self.mark.read_text().splitlines() == ["loaded", "ran"]
        self.mark.unlink()
        assert self.agent.poll() is None, self.log()

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()
        for process in psutil.process_iter():
            try:
                if process.environ().get("HELIOGRAPH_HOME") == str(self.home):
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        self.plane.stop()
        self.bucket.stop()


@contextmanager
def living(folder: Path, planted: str = "") -> Iterator[World]:
    world = World(folder, planted)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living(tmp_path_factory.mktemp("evil")) as made:
        yield made


# --- bad work ---------------------------------------------------------------------------------------------------------


def offered(world: World, bad: Bad) -> tuple[Seen, list[str]]:
    """Offers bad work and waits until it is dealt with. Returns what was told of it, and what was fetched for it."""
    world.mark.unlink(missing_ok=True)
    before = len(world.bucket.asked)
    lease = bad.make(world)
    if bad.reason is not None:
        world.plane.offer(lease)
        world.plane.wait_for(lease.flow_run.name)
    else:  # nothing is told of it: it is dealt with when what comes after it is
        next_one = world.lease()
        world.plane.offer(lease, next_one)
        world.plane.wait_for(next_one.flow_run.name)
    return world.plane.seen(lease.flow_run.name), world.bucket.asked[before:]


def judge(world: World, bad: Bad) -> list[str]:
    """Returns what the agent did that it should not have done."""
    seen, asked = offered(world, bad)
    faults = faults_of(bad, seen, asked, world.mark)
    if world.agent.poll() is not None:
        faults.append(f"the agent died: {world.log()[-2000:]}")
    return faults


@pytest.mark.parametrize("kind", BAD)
def test_bad_work_is_refused_before_anything_of_it_is_used(world: World, kind: str) -> None:
    assert judge(world, BAD[kind]) == [], world.log()[-2000:]


def test_the_agent_then_runs_good_work(world: World, figure: Callable[[str], None]) -> None:
    world.run_good_work()
    assert "owned" not in world.log()
    figure(f"{len(BAD)} kinds of bad work refused or dropped, good work runs")


# --- bad manners ------------------------------------------------------------------------------------------------------


def test_the_same_lease_again_and_again_is_launched_once(world: World) -> None:
    world.mark.unlink(missing_ok=True)
    lease = world.sign(world.lease())
    late = agents.FlowRunLease()
    late.CopyFrom(lease)
    lease.epoch = 3
    world.plane.offer(lease, lease, late, lease)
    seen = world.plane.wait_for(lease.flow_run.name)
    assert seen.accepted == 1
    assert world.mark.read_text().splitlines() == ["loaded", "ran"]


def test_no_more_is_taken_than_there_is_room_for(world: World) -> None:
    leases = [world.sign(world.lease()) for _ in range(50)]
    world.plane.offer(*leases)
    world.plane.wait_for_polls(2)
    taken = [lease for lease in leases if world.plane.seen(lease.flow_run.name).accepted]
    assert 0 < len(taken) <= 4
    for lease in taken:
        world.plane.wait_for(lease.flow_run.name)
    world.run_good_work()


@pytest.mark.parametrize("token", ["", "two\nlines", "tab\there", "x" * 5000, "hg_é"])
def test_a_run_token_that_is_none_is_not_used(world: World, token: str) -> None:
    world.plane.accept = lambda: {**ACCEPTED, "run_token": token}
    try:
        lease = world.sign(world.lease())
        world.plane.offer(lease)
        assert world.plane.wait_for(lease.flow_run.name).released == [0]  # it waits in the queue
    finally:
        world.plane.accept = lambda: ACCEPTED
    world.run_good_work()


def test_strange_times_identities_and_commands_are_survived(world: World) -> None:
    def heartbeat() -> agents.HeartbeatAgentResponse:
        answer = agents.HeartbeatAgentResponse(
            next_heartbeat=Duration(seconds=-5), spread_return=Duration(seconds=10**11), incarnation="../../x\n"
        )
        answer.commands.add(flow_run="projects/etl/flowRuns/../x", epoch=1, command=99)
        answer.commands.add(flow_run="projects/etl/flowRuns/nobody", epoch=7, command=agents.COMMAND_ABANDON)
        return answer

    def acks(sequence: int) -> list[RunEventAck]:
        noise = RunEventAck(acked_sequence=0, incarnation="store-1", command=77)  # type: ignore[arg-type]
        return [*([noise] * 50), RunEventAck(acked_sequence=sequence, incarnation="store-1")]

    honest = world.plane.acks
    world.plane.heartbeat, world.plane.acks = heartbeat, acks
    world.plane.accept = lambda: {**ACCEPTED, "renew_every": Duration(seconds=-1), "lease": Duration(seconds=-60)}
    try:
        lease = world.sign(world.lease())
        lease.accept_within.seconds = -30
        lease.flow_run.run_name = "../../etc/x"
        world.plane.offer(lease)
        assert not world.plane.wait_for(lease.flow_run.name).refusal
    finally:
        world.plane.heartbeat, world.plane.acks = agents.HeartbeatAgentResponse, honest
        world.plane.accept = lambda: ACCEPTED
    world.run_good_work()


def test_polls_that_break_are_survived(world: World) -> None:
    for error in (RuntimeError("\x1b[2J" + "x" * 5000), ValueError(""), KeyError("a\nb")):
        world.plane.break_a_poll(error)
    world.plane.wait_for_polls(4)
    world.run_good_work()


# --- planted bugs -----------------------------------------------------------------------------------------------------


def found(world: World, *kinds: str) -> list[str]:
    return [fault for kind in kinds for fault in judge(world, BAD[kind])]


def test_an_agent_without_its_gate_is_found(tmp_path: Path) -> None:
    with living(tmp_path, GATE_REMOVED) as world:
        faults = found(world, "another bucket", "no signature", "a variable that is not allowed")
    assert sum(fault.startswith("executed") for fault in faults) == 2
    assert any(fault.startswith("fetched: ['/elsewhere") for fault in faults)


def test_a_policy_that_is_asked_after_the_fetch_is_found(tmp_path: Path) -> None:
    with living(tmp_path, POLICY_AFTER_FETCH) as world:
        faults = found(world, "another bucket", "a project that is not allowed")
    assert len([fault for fault in faults if fault.startswith("fetched")]) == 2
    assert not [fault for fault in faults if fault.startswith("executed")]


def test_an_agent_without_its_door_is_found(tmp_path: Path) -> None:
    with living(tmp_path, DOOR_REMOVED) as world:
        world.plane.offer(BAD["a version that is none"].make(world))
        wait_until(lambda: world.agent.poll() is not None, "the agent has died", 60)
