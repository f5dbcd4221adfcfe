"""Signed flows, as people use them: keys made and trusted by command, good runs that run, tampered ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.stack import PROJECT, Stack

from heliograph.api.v1.flow_service_pb2 import RegisterFlowVersionRequest
from heliograph.engine.codes import FailureCode, StateCode
from heliograph.signing import SigningKey
from heliograph.utilities.hints import failure_hint

FLOW = """
    import pathlib
    from heliograph import Flow, task

    @task
    def act():
        with pathlib.Path({mark!r}).open("a") as mark:
            mark.write("ran\\n")

    with Flow({name!r}) as flow:
        act()
"""

Change = Callable[[RegisterFlowVersionRequest], None]


class Signed(Stack):
    """A stack whose author has a key that its agent trusts."""

    def begin(self) -> None:
        self.start_control_plane()
        self.cli("projects", "create", "elsewhere")
        self.cli("keys", "new", "--comment", "ann")
        self.cli("keys", "trust", str(self.home / "keys" / "signing.pub"), "--name", "ann")
        self.start_agent()

    @property
    def mark(self) -> Path:
        return self.root / "mark"

    def offer(self, name: str, change: Change | None = None) -> str:
        """Registers a flow, has what the control plane keeps of it changed, and makes a run of it."""
        if not (self.root / "flows" / name).exists():
            self.register(FLOW.format(mark=str(self.mark), name=name), file=f"{name}.py")
        if change is None:
            return self.run(name)
        request = self.registered(name, "1")
        change(request)
        with self.connection() as connection:
            answer = connection.call(connection.services.flows.RegisterFlowVersion, request)
        project, flow = answer.flow_version.name.split("/")[1:4:2]
        return self.run(flow, project=project)

    def registered(self, name: str, version: str = "latest") -> RegisterFlowVersionRequest:
        """Returns the request that registers what is registered once more."""
        from heliograph.api.v1.flow_service_pb2 import GetFlowVersionRequest

        with self.connection() as connection:
            wanted = GetFlowVersionRequest(name=f"projects/{PROJECT}/flows/{name}/versions/{version}")
            found = connection.call(connection.services.flows.GetFlowVersion, wanted)
        return RegisterFlowVersionRequest(
            parent=f"projects/{PROJECT}", flow_id=name, graph=found.graph, bundle=found.bundle,
            launch=found.launch,
        )  # fmt: skip

    def refused(self, run: str, reason: FailureCode) -> str:
        """Waits for the refusal, and returns what `runs why` says of it."""
        found = self.wait_for(run, StateCode.CRASHED, StateCode.FAILED)
        assert int(found.failure.reason) == reason, found.failure
        assert not self.mark.exists()
        told = self.cli("runs", "why", run).stdout
        meaning, advice = failure_hint(reason)
        assert meaning in told
        assert advice in told
        return told


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    stack = Signed(tmp_path_factory.mktemp("signed"))
    try:
        stack.begin()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(autouse=True)
def _no_mark(signed: Signed) -> Iterator[None]:
    signed.mark.unlink(missing_ok=True)
    yield
    signed.mark.unlink(missing_ok=True)


def test_a_signed_flow_runs(signed: Signed) -> None:
    run = signed.offer("good")
    signed.wait_for(run, StateCode.SUCCESS)
    assert signed.mark.read_text() == "ran\n"
    bundle = signed.registered("good").bundle
    [own, trusted] = signed.json("keys", "ls")
    assert bundle.signing_key_id == own["key_id"] == trusted["key_id"]


def _flip(request: RegisterFlowVersionRequest) -> None:
    signature = bytearray(request.bundle.signature)
    signature[7] ^= 1
    request.bundle.signature = bytes(signature)


def _truncate(request: RegisterFlowVersionRequest) -> None:
    request.bundle.signature = request.bundle.signature[:-1]


def _strip(request: RegisterFlowVersionRequest) -> None:
    request.bundle.ClearField("signature")
    request.bundle.ClearField("signing_key_id")


def _other_flow(request: RegisterFlowVersionRequest) -> None:
    request.flow_id += "-replayed"


def _other_project(request: RegisterFlowVersionRequest) -> None:
    request.parent = "projects/elsewhere"


@pytest.mark.parametrize("change", [_flip, _truncate, _strip, _other_flow, _other_project])
def test_a_signature_that_does_not_fit_is_refused(signed: Signed, change: Change) -> None:
    told = signed.refused(signed.offer("victim", change), FailureCode.SIGNATURE)
    assert "sign" in told


def test_a_signature_of_another_version_is_refused(signed: Signed) -> None:
    signed.wait_for(signed.offer("versions"), StateCode.SUCCESS)
    signed.mark.unlink()
    first = signed.registered("versions").bundle
    signed.register(FLOW.format(mark=str(signed.mark), name="versions") + "\n    second = True\n", file="versions.py")
    request = signed.registered("versions")
    assert request.bundle.digest != first.digest
    request.bundle.signature = first.signature
    with signed.connection() as connection:
        connection.call(connection.services.flows.RegisterFlowVersion, request)
    signed.refused(signed.run("versions"), FailureCode.SIGNATURE)


def test_a_key_that_is_not_trusted_is_refused_until_it_is(signed: Signed) -> None:
    other = signed.root / "bob.key"
    SigningKey.create(other, "bob")
    signed.environment["HELIOGRAPH__CLIENT__SIGNING_KEY"] = str(other)
    try:
        signed.refused(signed.offer("of-bob"), FailureCode.SIGNATURE)
        signed.cli("keys", "trust", str(other.with_suffix(".pub")))
        signed.wait_for(signed.run("of-bob"), StateCode.SUCCESS)  # nothing was restarted
        signed.mark.unlink()
        signed.cli("keys", "untrust", "bob")
        signed.refused(signed.run("of-bob"), FailureCode.SIGNATURE)
    finally:
        del signed.environment["HELIOGRAPH__CLIENT__SIGNING_KEY"]


def test_changed_bytes_in_the_storage_are_refused(signed: Signed) -> None:
    def change(request: RegisterFlowVersionRequest) -> None:
        digest = request.bundle.digest.partition(":")[2]
        archive = Path(request.bundle.location) / f"bundles/sha256/{digest[:2]}/{digest}/bundle.tar"
        data = archive.read_bytes()
        assert b'open("a")' in data
        archive.chmod(0o600)
        archive.write_bytes(data.replace(b'open("a")', b'open("w")'))

    signed.refused(signed.offer("changed", change), FailureCode.BUNDLE_CHANGED)


def test_changed_launch_settings_are_refused(signed: Signed) -> None:
    def change(request: RegisterFlowVersionRequest) -> None:
        path = Path(request.bundle.location) / f"launch/sha256/{request.bundle.launch_digest.partition(':')[2]}.json"
        settings = json.loads(path.read_text())
        settings["env"] = {"LD_PRELOAD": "/tmp/evil.so"}
        path.chmod(0o600)
        path.write_text(json.dumps(settings))
        for known in signed.home.rglob(f"launch/{path.name}"):
            known.unlink()  # the agent's copy, of an earlier run with the same settings

    signed.refused(signed.offer("launch-changed", change), FailureCode.BUNDLE_CHANGED)
    for path in (signed.home / "storage" / "launch").rglob("*.json"):
        path.unlink()  # registering stores them again
