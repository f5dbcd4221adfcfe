"""A control plane that wants to run its own work: all of it is refused or harmless, and good work still runs.

What it could gain is witnessed where it would show: the bucket writes down every object that is fetched, and the code
of every flow and pickle leaves a mark when it is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.support.evil_plane import ACCEPTED, Bucket, EvilPlane, Seen
from tests.support.stack import wait_until

from heliograph.api.v1 import agent_service_pb2 as agents
from heliograph.api.v1.flow_service_pb2 import BUNDLE_FORMAT_PICKLE, BUNDLE_FORMAT_SOURCE
from heliograph.api.v1.run_reporting_service_pb2 import RunEventAck
from heliograph.engine.codes import FailureCode
from heliograph.signing import SigningKey, Statement, TrustStore
from heliograph.storage import LaunchSettings, Local
from heliograph.storage.base import BundleRef
from heliograph.storage.bundle import Bundle, build_bundle
from heliograph.storage.load import load_flows
from heliograph.storage.manifest import PICKLE_PATH

F = FailureCode

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

FLOW = """
    import pathlib
    from heliograph import Flow, task

    def note(word):
        with pathlib.Path({mark!r}).open("a") as mark:
            mark.write(word + "\\n")

    note("loaded")

    @task
    def act():
        note("ran")

    with Flow("good") as flow:
        act()
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


class _Marking:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self._mark)!r}, 'a').write('unpickled\\n')",)


class World:
    """An agent with a policy and a trusted key, the control plane that it has to do with, and the storage of both."""

    def __init__(self, folder: Path, planted: str = "") -> None:
        self.folder = folder
        self.mark = folder / "mark"
        self.plane, self.bucket = EvilPlane(), Bucket(folder / "buckets")
        self.home = folder / "home"
        self.key = SigningKey.create(folder / "ann" / "signing.key", "ann")
        self.stranger = SigningKey.create(folder / "eve" / "signing.key", "eve")
        TrustStore(self.home / "keys" / "trusted").add("ann", self.key.public)
        (self.home / "policy.toml").write_text(textwrap.dedent(POLICY))
        source = folder / "source" / "good.py"
        source.parent.mkdir()
        source.write_text(textwrap.dedent(FLOW.format(mark=str(self.mark))))
        [self.flow] = load_flows(source)
        self.mark.unlink()
        self.bundle = build_bundle(self.flow)
        self.storage = Local(folder / "buckets" / "bundles" / "prod", host="")
        self.reference = self.storage.put_bundle(self.bundle, LaunchSettings(env={"APP_MODE": "x"}))
        Local(folder / "buckets" / "bundles" / "evil", host="").put_bundle(self.bundle, LaunchSettings())
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

    # --- work --------------------------------------------------------------------------------------------------

    def put(self, settings: LaunchSettings | None = None, bundle: Bundle | None = None) -> BundleRef:
        """Stores launch settings, or a bundle, where the policy allows."""
        return self.storage.put_bundle(bundle or self.bundle, settings or LaunchSettings(env={"APP_MODE": "x"}))

    def lease(self, reference: BundleRef | None = None) -> agents.FlowRunLease:
        """Returns a lease of good work, not signed yet."""
        made = reference or self.reference
        lease = agents.FlowRunLease(epoch=1, attempt=1, accept_within=Duration(seconds=30))
        lease.flow_run.name = f"projects/etl/flowRuns/{uuid.uuid4()}"
        lease.flow_run.run_name = "brave-otter"
        lease.flow_run.parameters_json = "{}"
        version = lease.flow_version
        version.name = "projects/etl/flows/good/versions/1"
        version.graph.graph_hash = self.bundle.manifest.graph_hash
        bundle = version.bundle
        bundle.storage, bundle.location = "s3", "s3://bundles/prod"
        bundle.digest, bundle.launch_digest, bundle.python_version = made.digest, made.launch_digest, "3.11.2"
        bundle.format = BUNDLE_FORMAT_SOURCE
        return lease

    def sign(self, lease: agents.FlowRunLease, key: SigningKey | None = None) -> agents.FlowRunLease:
        """Signs what a lease says now, as an author of that would."""
        version, key = lease.flow_version, key or self.key
        bundle = version.bundle
        statement = Statement(
            project=lease.flow_run.name.split("/")[1], flow=version.name.split("/")[3], storage=bundle.storage,
            location=bundle.location, digest=bundle.digest, launch_digest=bundle.launch_digest,
            image=version.launch.image, graph_hash=version.graph.graph_hash,
            pickled=bundle.format == BUNDLE_FORMAT_PICKLE,
        )  # fmt: skip
        bundle.signature, bundle.signing_key_id = key.sign(statement), key.public.key_id
        return lease

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


@dataclass(frozen=True)
class Bad:
    """One kind of bad work.

    Attributes:
        make: Makes the lease.
        reason: What it is given back with; None when it is dropped without an answer.
        fetched: What may be fetched before the refusal: nothing, the launch settings, or the bundle as well.
    """

    make: Callable[[World], agents.FlowRunLease]
    reason: FailureCode | None
    fetched: tuple[str, ...] = ()


def changed(path: str, value: Any, *, signed: bool = True) -> Callable[[World], agents.FlowRunLease]:
    """Makes work in which one field has another value; signed over what it says then, or over what it said before."""

    def make(world: World) -> agents.FlowRunLease:
        lease = world.lease()
        if not signed:
            world.sign(lease)
        target: Any = lease
        *way, last = path.split(".")
        for name in way:
            target = getattr(target, name)
        setattr(target, last, value(getattr(target, last)) if callable(value) else value)
        return world.sign(lease) if signed else lease

    return make


def _foreign_project(world: World) -> agents.FlowRunLease:
    lease = world.lease()
    lease.flow_run.name = lease.flow_run.name.replace("etl", "ops")
    lease.flow_version.name = lease.flow_version.name.replace("etl", "ops")
    return world.sign(lease)


def _local_folder(world: World, location: str = "") -> agents.FlowRunLease:
    lease = world.lease()
    lease.flow_version.bundle.storage = "local"
    lease.flow_version.bundle.location = location or world.storage.location
    return world.sign(lease)


def _stripped(world: World) -> agents.FlowRunLease:
    return world.lease()


def _foreign_key(world: World) -> agents.FlowRunLease:
    return world.sign(world.lease(), world.stranger)


def _foreign_key_under_a_trusted_name(world: World) -> agents.FlowRunLease:
    lease = _foreign_key(world)
    lease.flow_version.bundle.signing_key_id = world.key.public.key_id
    return lease


def _replayed(world: World) -> agents.FlowRunLease:
    lease, other = world.lease(), world.lease()
    other.flow_version.name = "projects/etl/flows/other/versions/1"
    lease.flow_version.bundle.CopyFrom(world.sign(other).flow_version.bundle)
    return lease


def _asking_for(**settings: Any) -> Callable[[World], agents.FlowRunLease]:
    return lambda world: world.sign(world.lease(world.put(LaunchSettings(**settings))))


def _other_launch(world: World) -> agents.FlowRunLease:
    lease = world.sign(world.lease())
    lease.flow_version.bundle.launch_digest = world.put(LaunchSettings(env={"APP_OTHER": "y"})).launch_digest
    return lease


def _other_bundle(world: World) -> agents.FlowRunLease:
    lease = world.sign(world.lease())
    lease.flow_version.bundle.digest = world.put(bundle=_of_python(world, "3.1")).digest
    return lease


def _of_python(world: World, python: str) -> Bundle:
    return dataclasses.replace(world.bundle, manifest=dataclasses.replace(world.bundle.manifest, python=python))


def _wrong_python(world: World) -> agents.FlowRunLease:
    return world.sign(world.lease(world.put(bundle=_of_python(world, "3.99"))))


def _marking_pickle(world: World) -> BundleRef:
    bundle = build_bundle(world.flow, pickle=True)
    data = pickle.dumps(_Marking(world.mark))
    contents = {**bundle.contents, PICKLE_PATH: data}
    files = tuple(
        dataclasses.replace(entry, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        if entry.path == PICKLE_PATH
        else entry
        for entry in bundle.manifest.files
    )
    manifest = dataclasses.replace(bundle.manifest, files=files)
    return world.put(bundle=dataclasses.replace(bundle, manifest=manifest, contents=contents))


def _pickle(world: World) -> agents.FlowRunLease:
    lease = world.lease(_marking_pickle(world))
    lease.flow_version.bundle.format = BUNDLE_FORMAT_PICKLE
    return world.sign(lease)


def _pickle_called_source(world: World) -> agents.FlowRunLease:
    return world.sign(world.lease(_marking_pickle(world)))


def _flow_of_another_name(world: World) -> agents.FlowRunLease:
    manifest = dataclasses.replace(world.bundle.manifest, flow="other")
    return world.sign(world.lease(world.put(bundle=dataclasses.replace(world.bundle, manifest=manifest))))


LAUNCH, BUNDLE = ("launch",), ("launch", "bundles")
RUN, BUNDLE_OF = "flow_run.name", "flow_version.bundle"

BAD: dict[str, Bad] = {
    "a project that is not allowed": Bad(_foreign_project, F.POLICY),
    "a flow that is not allowed": Bad(changed("flow_version.name", "projects/etl/flows/bad/versions/1"), F.POLICY),
    "a flow of another project": Bad(changed("flow_version.name", "projects/ops/flows/good/versions/1"), F.POLICY),
    "a version that is none": Bad(changed("flow_version.name", "good", signed=False), F.POLICY),
    "another bucket": Bad(changed(f"{BUNDLE_OF}.location", "s3://elsewhere/prod"), F.POLICY),
    "a place beside": Bad(changed(f"{BUNDLE_OF}.location", "s3://bundles/prod-evil"), F.POLICY),
    "a place that leads back": Bad(changed(f"{BUNDLE_OF}.location", "s3://bundles/prod/../evil"), F.POLICY),
    "a disguised way back": Bad(changed(f"{BUNDLE_OF}.location", "s3://bundles/prod/%2E%2e/evil"), F.POLICY),
    "a place with a line break": Bad(changed(f"{BUNDLE_OF}.location", "s3://bundles/prod\nx"), F.POLICY),
    "a folder of the host": Bad(_local_folder, F.POLICY),
    "a folder of somebody's home": Bad(lambda world: _local_folder(world, "~root/x"), F.POLICY),
    "a kind of storage that is none": Bad(changed(f"{BUNDLE_OF}.storage", "os.system"), F.POLICY),
    "a digest with a path": Bad(changed(f"{BUNDLE_OF}.digest", "sha256:../../../../etc/passwd"), F.POLICY),
    "a launch digest with a path": Bad(changed(f"{BUNDLE_OF}.launch_digest", "sha256:../../policy"), F.POLICY),
    "another image": Bad(changed("flow_version.launch.image", "evil/image:1", signed=False), F.SIGNATURE),
    "an image that nobody named": Bad(changed("flow_version.launch.image", "evil/image:1"), F.POLICY, LAUNCH),
    "an image with arguments": Bad(changed("flow_version.launch.image", "a --privileged"), F.POLICY),
    "other launch settings": Bad(_other_launch, F.SIGNATURE),
    "another bundle": Bad(_other_bundle, F.SIGNATURE),
    "another graph": Bad(changed("flow_version.graph.graph_hash", "x", signed=False), F.SIGNATURE),
    "no signature": Bad(_stripped, F.SIGNATURE),
    "a signature of a stranger": Bad(_foreign_key, F.SIGNATURE),
    "a signature of a stranger under a trusted name": Bad(_foreign_key_under_a_trusted_name, F.SIGNATURE),
    "a signature of another flow": Bad(_replayed, F.SIGNATURE),
    "half a signature": Bad(changed(f"{BUNDLE_OF}.signature", lambda text: text[:32], signed=False), F.SIGNATURE),
    "a signature without an end": Bad(changed(f"{BUNDLE_OF}.signature", b"x" * 5000, signed=False), F.POLICY),
    "a variable that is not allowed": Bad(_asking_for(env={"LD_PRELOAD": "/tmp/x.so"}), F.POLICY, LAUNCH),
    "mounts": Bad(_asking_for(options={"volumes": ["/:/host"]}), F.POLICY, LAUNCH),
    "rights": Bad(_asking_for(options={"privileged": True}), F.POLICY, LAUNCH),
    "too much memory": Bad(_asking_for(memory_bytes=2**40), F.POLICY, LAUNCH),
    "too many cores": Bad(_asking_for(cpu_millis=64_000), F.POLICY, LAUNCH),
    "another Python": Bad(_wrong_python, F.PYTHON_MISMATCH, BUNDLE),
    "a pickle": Bad(_pickle, F.POLICY),
    "a pickle that is called source": Bad(_pickle_called_source, F.BUNDLE_CHANGED, BUNDLE),
    "a bundle of another flow": Bad(_flow_of_another_name, F.BUNDLE_CHANGED, BUNDLE),
    "huge parameters": Bad(changed("flow_run.parameters_json", '{"x": "' + "y" * 2_000_000 + '"}'), F.PARAMETERS),
    "parameters that are no JSON": Bad(changed("flow_run.parameters_json", "{x: __import__('os')}"), F.PARAMETERS),
    "parameters that are a list": Bad(changed("flow_run.parameters_json", "[1]"), F.PARAMETERS),
    "parameters that are no numbers": Bad(changed("flow_run.parameters_json", '{"x": NaN}'), F.PARAMETERS),
    "parameters without a ground": Bad(changed("flow_run.parameters_json", "[" * 200_000), F.PARAMETERS),
    "a run's name that writes on the terminal": Bad(changed("flow_run.run_name", "\x1b]0;owned\x07"), F.POLICY),
    "a run's name with lines": Bad(changed("flow_run.run_name", "a\n[2026] INFO - all is well"), F.POLICY),
    "a time that is none": Bad(changed("flow_run.scheduled_time.seconds", 2**62), F.POLICY),
    "no attempt": Bad(changed("attempt", 0), F.POLICY),
    "a run whose name leads back": Bad(changed(RUN, "projects/etl/flowRuns/.."), None),
    "a run whose name is a path": Bad(changed(RUN, "projects/etl/flowRuns/../../../x", signed=False), None),
    "a run whose name ends early": Bad(changed(RUN, "projects/etl/flowRuns/a\0b"), None),
    "a run without a name": Bad(changed(RUN, "", signed=False), None),
    "no epoch": Bad(changed("epoch", 0), None),
    "an epoch without an end": Bad(changed("epoch", 2**64 - 1), None),
}  # fmt: skip


def offered(world: World, bad: Bad) -> tuple[Seen, list[str]]:
    """Offers bad work and waits until it is dealt with. Returns what was told of it, and what was fetched for it."""
    world.mark.unlink(missing_ok=True)
    before = len(world.bucket.asked)
    lease = bad.make(world)
    world.plane.offer(lease)
    if bad.reason is None:
        world.plane.wait_for_polls(2)
    else:
        world.plane.wait_for(lease.flow_run.name)
    return world.plane.seen(lease.flow_run.name), world.bucket.asked[before:]


def judge(world: World, bad: Bad) -> list[str]:
    """Returns what the agent did that it should not have done."""
    seen, asked = offered(world, bad)
    faults = []
    if world.mark.exists():
        faults.append(f"executed: {world.mark.read_text()}")
    kinds = {path.split("/")[3] for path in asked if path.startswith("/bundles/prod/")}
    strange = [path for path in asked if not path.startswith("/bundles/prod/")]
    if strange or kinds - set(bad.fetched):
        faults.append(f"fetched: {asked}")
    if bad.reason is None and (seen.accepted or seen.released):
        faults.append(f"taken: {seen}")
    if bad.reason is not None and seen.refusal != bad.reason:
        faults.append(f"not refused with {bad.reason.name}: {seen}")
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
