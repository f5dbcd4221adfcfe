"""The gate: a signature over what is offered, launch settings as registered, nothing fetched for what is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliograph.engine.codes import FailureCode
from heliograph.signing import SigningKey, Statement, TrustStore
from heliograph.storage import LaunchSettings
from heliograph.storage.local import Local
from heliograph_agents.gate import Gate
from heliograph_agents.launcher import BundleSpec, LaunchError, RunSpec
from heliograph_agents.policy import Policy, parse_policy


class Scene:
    """A storage with launch settings, a key, and a signed run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, Local(folder / "storage", host="")
        settings = LaunchSettings(image="reg/flow:1")
        self.storage._put(f"launch/sha256/{settings.digest.partition(':')[2]}.json", settings.to_json())
        self.key = SigningKey.create(folder / "signing.key")
        self.trust = TrustStore(folder / "trusted")
        bundle = BundleSpec(
            "local", self.storage.location, "sha256:0", settings.digest, False, "3.11", "", image="reg/flow:1"
        )
        version = "projects/etl/flows/load/versions/1"
        self.spec = self.signed(RunSpec("projects/etl/flowRuns/r", version, "otter", 1, 1, "{}", bundle, "g", 0))

    def signed(self, spec: RunSpec) -> RunSpec:
        bundle = spec.bundle
        statement = Statement(
            "etl", "load", bundle.storage, bundle.location, bundle.digest, bundle.launch_digest, bundle.image,
            spec.graph_hash, bundle.pickled,
        )  # fmt: skip
        signature, key_id = self.key.sign(statement).hex(), self.key.public.key_id
        return replace(spec, bundle=replace(bundle, signature_hex=signature, signing_key_id=key_id))

    def admit(
        self, spec: RunSpec, *, policy: dict[str, Any] | None = None, needs: bool = True
    ) -> LaunchSettings | None:
        rules = parse_policy(policy) if policy is not None else Policy()
        gate = Gate(self.folder / "cache", needs_settings=needs, policy=rules, trust=self.trust)
        return asyncio.run(gate.admit(spec))

    def refused(self, spec: RunSpec, **how: Any) -> FailureCode | None:
        with pytest.raises(LaunchError) as caught:
            self.admit(spec, **how)
        return caught.value.failure


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_signatures_are_wanted_as_soon_as_a_key_is_trusted(scene: Scene) -> None:
    unsigned = replace(scene.spec, bundle=replace(scene.spec.bundle, signature_hex="", signing_key_id=""))
    assert scene.admit(unsigned) is not None
    scene.trust.add("ann", scene.key.public)
    assert scene.admit(scene.spec) is not None
    assert scene.refused(unsigned) is FailureCode.SIGNATURE
    assert scene.admit(unsigned, policy={"require_signature": False}) is not None


def test_a_policy_wants_signatures_before_any_key_is_trusted(scene: Scene) -> None:
    assert scene.refused(scene.spec, policy={"require_signature": True}) is FailureCode.SIGNATURE


@pytest.mark.parametrize(
    "change",
    [
        {"flow_version": "projects/etl/flows/other/versions/1"},
        {"graph_hash": "other"},
        {"flow_run": "projects/other/flowRuns/r", "flow_version": "projects/other/flows/load/versions/1"},
    ],
)
def test_a_signature_for_something_else_is_refused(scene: Scene, change: dict[str, Any]) -> None:
    scene.trust.add("ann", scene.key.public)
    assert scene.refused(replace(scene.spec, **change)) is FailureCode.SIGNATURE


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:1"}, {"launch_digest": "sha256:1"}, {"location": "/elsewhere"}, {"image": "evil"},
        {"pickled": True}, {"signature_hex": "00" * 64}, {"signature_hex": "no"}, {"signing_key_id": "ed25519:0"},
    ],
)  # fmt: skip
def test_a_bundle_that_is_not_the_signed_one_is_refused(scene: Scene, change: dict[str, Any]) -> None:
    scene.trust.add("ann", scene.key.public)
    changed = replace(scene.spec, bundle=replace(scene.spec.bundle, **change))
    assert scene.refused(changed) is FailureCode.SIGNATURE


def test_an_image_that_the_author_did_not_choose_is_refused(scene: Scene) -> None:
    changed = replace(scene.spec, bundle=replace(scene.spec.bundle, image="evil"))
    assert scene.refused(changed) is FailureCode.POLICY


def test_what_the_policy_refuses_is_not_fetched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("heliograph_agents.gate.settings_of", fetch)
    assert scene.refused(scene.spec, policy={"projects": ["other"]}) is FailureCode.POLICY
    with pytest.raises(AssertionError, match="fetched"):
        scene.admit(scene.spec)


def test_settings_are_fetched_only_where_somebody_needs_them(scene: Scene) -> None:
    assert scene.admit(scene.spec, needs=False) is None
    assert scene.admit(scene.spec, needs=False, policy={"env": ["A"]}) is not None


def test_launch_settings_that_are_not_those_registered_are_refused(scene: Scene) -> None:
    [path] = (scene.folder / "storage" / "launch").rglob("*.json")
    path.write_bytes(path.read_bytes() + b" ")
    assert scene.refused(scene.spec) is FailureCode.BUNDLE_CHANGED
