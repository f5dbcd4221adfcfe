"""Bad work, kind by kind: what a control plane could offer to get its own code, or more rights, run on an agent's side.

Beside it what is good work, and how an author signs it. Whether anything of it was executed is seen by a mark that the
code of every flow and pickle leaves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import textwrap
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from tests.support.evil_plane import Seen

from heliograph.api.v1 import agent_service_pb2 as agents
from heliograph.api.v1.flow_service_pb2 import BUNDLE_FORMAT_PICKLE, BUNDLE_FORMAT_SOURCE
from heliograph.engine.codes import FailureCode
from heliograph.signing import SigningKey, Statement
from heliograph.storage import LaunchSettings, Local
from heliograph.storage.base import BundleRef
from heliograph.storage.bundle import Bundle, build_bundle
from heliograph.storage.load import load_flows
from heliograph.storage.manifest import PICKLE_PATH

F = FailureCode

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


class _Marking:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self._mark)!r}, 'a').write('unpickled\\n')",)


class Work:
    """Good work in a bucket that the policy allows, and the keys of who may sign it and of who may not.

    Args:
        folder: Folder for keys, source and buckets.
        image: The image that its launch settings name; empty for none.

    Attributes:
        mark: File that holds what was executed.
        key: The trusted key.
        stranger: One that is not.
    """

    def __init__(self, folder: Path, image: str = "") -> None:
        self.folder, self.image = folder, image
        self.mark = folder / "mark"
        self.key = SigningKey.create(folder / "ann" / "signing.key", "ann")
        self.stranger = SigningKey.create(folder / "eve" / "signing.key", "eve")
        source = folder / "source" / "good.py"
        source.parent.mkdir()
        source.write_text(textwrap.dedent(FLOW.format(mark=str(self.mark))))
        [self.flow] = load_flows(source)
        self.mark.unlink()
        self.bundle = build_bundle(self.flow)
        self.storage = Local(folder / "buckets" / "bundles" / "prod", host="")
        self.reference = self.storage.put_bundle(self.bundle, self.settings())
        Local(folder / "buckets" / "bundles" / "evil", host="").put_bundle(self.bundle, self.settings())

    def settings(self, **asked: Any) -> LaunchSettings:
        """Returns launch settings; by default those of good work."""
        return LaunchSettings(**{"image": self.image, **(asked or {"env": {"APP_MODE": "x"}})})

    def put(self, settings: LaunchSettings | None = None, bundle: Bundle | None = None) -> BundleRef:
        """Stores launch settings, or a bundle, where the policy allows."""
        return self.storage.put_bundle(bundle or self.bundle, settings or self.settings())

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
        version.launch.image = self.image
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


@dataclass(frozen=True)
class Bad:
    """One kind of bad work.

    Attributes:
        make: Makes the lease.
        reason: What it is given back with; None when it is dropped without an answer.
        fetched: What may be fetched before the refusal: nothing, the launch settings, or the bundle as well.
    """

    make: Callable[[Work], agents.FlowRunLease]
    reason: FailureCode | None
    fetched: tuple[str, ...] = ()


def changed(path: str, value: Any, *, signed: bool = True) -> Callable[[Work], agents.FlowRunLease]:
    """Makes work in which one field has another value; signed over what it says then, or over what it said before."""

    def make(work: Work) -> agents.FlowRunLease:
        lease = work.lease()
        if not signed:
            work.sign(lease)
        target: Any = lease
        *way, last = path.split(".")
        for name in way:
            target = getattr(target, name)
        setattr(target, last, value(getattr(target, last)) if callable(value) else value)
        return work.sign(lease) if signed else lease

    return make


def _foreign_project(work: Work) -> agents.FlowRunLease:
    lease = work.lease()
    lease.flow_run.name = lease.flow_run.name.replace("etl", "ops")
    lease.flow_version.name = lease.flow_version.name.replace("etl", "ops")
    return work.sign(lease)


def _local_folder(work: Work, location: str = "") -> agents.FlowRunLease:
    lease = work.lease()
    lease.flow_version.bundle.storage = "local"
    lease.flow_version.bundle.location = location or work.storage.location
    return work.sign(lease)


def _stripped(work: Work) -> agents.FlowRunLease:
    return work.lease()


def _foreign_key(work: Work) -> agents.FlowRunLease:
    return work.sign(work.lease(), work.stranger)


def _foreign_key_under_a_trusted_name(work: Work) -> agents.FlowRunLease:
    lease = _foreign_key(work)
    lease.flow_version.bundle.signing_key_id = work.key.public.key_id
    return lease


def _replayed(work: Work) -> agents.FlowRunLease:
    lease, other = work.lease(), work.lease()
    other.flow_version.name = "projects/etl/flows/other/versions/1"
    lease.flow_version.bundle.CopyFrom(work.sign(other).flow_version.bundle)
    return lease


def asking_for(**settings: Any) -> Callable[[Work], agents.FlowRunLease]:
    """Makes work that is good but for these fields of its launch settings."""

    def make(work: Work) -> agents.FlowRunLease:
        asked = work.settings(**settings)
        lease = work.lease(work.put(asked))
        lease.flow_version.launch.image = asked.image
        return work.sign(lease)

    return make


def _other_launch(work: Work) -> agents.FlowRunLease:
    lease = work.sign(work.lease())
    lease.flow_version.bundle.launch_digest = work.put(work.settings(env={"APP_OTHER": "y"})).launch_digest
    return lease


def _other_bundle(work: Work) -> agents.FlowRunLease:
    lease = work.sign(work.lease())
    lease.flow_version.bundle.digest = work.put(bundle=_of_python(work, "3.1")).digest
    return lease


def _of_python(work: Work, python: str) -> Bundle:
    return dataclasses.replace(work.bundle, manifest=dataclasses.replace(work.bundle.manifest, python=python))


def _wrong_python(work: Work) -> agents.FlowRunLease:
    return work.sign(work.lease(work.put(bundle=_of_python(work, "3.99"))))


def _marking_pickle(work: Work) -> BundleRef:
    bundle = build_bundle(work.flow, pickle=True)
    data = pickle.dumps(_Marking(work.mark))
    contents = {**bundle.contents, PICKLE_PATH: data}
    files = tuple(
        dataclasses.replace(entry, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        if entry.path == PICKLE_PATH
        else entry
        for entry in bundle.manifest.files
    )
    manifest = dataclasses.replace(bundle.manifest, files=files)
    return work.put(bundle=dataclasses.replace(bundle, manifest=manifest, contents=contents))


def _pickle(work: Work) -> agents.FlowRunLease:
    lease = work.lease(_marking_pickle(work))
    lease.flow_version.bundle.format = BUNDLE_FORMAT_PICKLE
    return work.sign(lease)


def _pickle_called_source(work: Work) -> agents.FlowRunLease:
    return work.sign(work.lease(_marking_pickle(work)))


def _flow_of_another_name(work: Work) -> agents.FlowRunLease:
    manifest = dataclasses.replace(work.bundle.manifest, flow="other")
    return work.sign(work.lease(work.put(bundle=dataclasses.replace(work.bundle, manifest=manifest))))


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
    "a folder of somebody's home": Bad(lambda work: _local_folder(work, "~root/x"), F.POLICY),
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
    "a variable that is not allowed": Bad(asking_for(env={"LD_PRELOAD": "/tmp/x.so"}), F.POLICY, LAUNCH),
    "mounts": Bad(asking_for(options={"volumes": ["/:/host"]}), F.POLICY, LAUNCH),
    "rights": Bad(asking_for(options={"privileged": True}), F.POLICY, LAUNCH),
    "too much memory": Bad(asking_for(memory_bytes=2**40), F.POLICY, LAUNCH),
    "too many cores": Bad(asking_for(cpu_millis=64_000), F.POLICY, LAUNCH),
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


def faults_of(bad: Bad, seen: Seen, asked: list[str], mark: Path) -> list[str]:
    """Returns what an agent did that it should not have done.

    Args:
        bad: What was offered.
        seen: What the agent told of it.
        asked: What was asked of the bucket.
        mark: Where what was executed leaves a mark.
    """
    faults = []
    if mark.exists():
        faults.append(f"executed: {mark.read_text()}")
    kinds = {path.split("/")[3] for path in asked if path.startswith("/bundles/prod/")}
    strange = [path for path in asked if not path.startswith("/bundles/prod/")]
    if strange or kinds - set(bad.fetched):
        faults.append(f"fetched: {asked}")
    if bad.reason is None and (seen.accepted or seen.released):
        faults.append(f"taken: {seen}")
    if bad.reason is not None and seen.refusal != bad.reason:
        faults.append(f"not refused with {bad.reason.name}: {seen}")
    return faults
