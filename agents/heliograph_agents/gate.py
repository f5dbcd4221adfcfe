"""What the agent itself checks before anything is launched for a run: origin, signature, launch settings, the plan.

In that order: what is refused for where it comes from is never fetched, and what is refused for what it asks for is
never started. The supervisor checks the bundle, where the code will run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from heliograph.engine.codes import FailureCode
from heliograph.exceptions import HeliographError, SignatureError, StorageError
from heliograph.signing import Statement, TrustStore
from heliograph.storage import LaunchSettings
from heliograph_agents.bundles import settings_of
from heliograph_agents.launcher import LaunchError, Plan, RunSpec
from heliograph_agents.policy import Policy


class Gate:
    """Admits runs.

    Args:
        cache: Folder of fetched bundles and launch settings.
        needs_settings: True when the launcher wants the launch settings.
        policy: What the agent's owner allows.
        trust: The keys that are trusted. As soon as there is one, unsigned bundles are refused, unless the policy says
            otherwise. Read at every run: a key that is trusted no more counts at once.
    """

    def __init__(
        self, cache: Path, *, needs_settings: bool, policy: Policy | None = None, trust: TrustStore | None = None
    ) -> None:
        self._cache = cache
        self._policy = policy if policy is not None else Policy()
        self._needs_settings = needs_settings or self._policy.wants_settings
        self._trust = trust if trust is not None else TrustStore()

    async def admit(self, spec: RunSpec) -> LaunchSettings | None:
        """Returns the launch settings of a run that may be launched; None where nobody here needs them.

        Raises:
            LaunchError: It may not, or nobody can tell.
        """
        _raise_refusals(self._policy.refuse_origin(spec))
        try:
            self._verify(spec)
        except HeliographError as error:
            raise LaunchError(str(error), FailureCode.SIGNATURE) from error
        if not self._needs_settings:
            return None
        try:
            settings = await asyncio.to_thread(settings_of, spec.bundle, self._cache)
        except StorageError as error:
            raise LaunchError(f"its launch settings: {error}", FailureCode[error.failure]) from error
        if settings.image != spec.bundle.image:
            raise LaunchError(
                f"the control plane names image {spec.bundle.image or 'none'}, the launch settings"
                f" {settings.image or 'none'}",
                FailureCode.POLICY,
            )
        return settings

    def judge(self, plan: Plan) -> None:
        """Judges what would be started.

        Raises:
            LaunchError: The policy refuses it.
        """
        _raise_refusals(self._policy.refuse_plan(plan.facts))

    def _verify(self, spec: RunSpec) -> None:
        required = self._policy.require_signature
        if required is None:
            required = bool(self._trust.keys())
        if not required:
            return
        bundle = spec.bundle
        try:
            signature = bytes.fromhex(bundle.signature_hex)
        except ValueError as error:
            raise SignatureError("the signature is none") from error
        statement = Statement(
            project=spec.flow_run.split("/")[1],
            flow=spec.flow_version.split("/")[3],
            storage=bundle.storage,
            location=bundle.location,
            digest=bundle.digest,
            launch_digest=bundle.launch_digest,
            image=bundle.image,
            graph_hash=spec.graph_hash,
            pickled=bundle.pickled,
        )
        self._trust.verify(bundle.signing_key_id, signature, statement)


def _raise_refusals(refusals: list[str]) -> None:
    if refusals:
        raise LaunchError(f"this agent's policy refuses it: {'; '.join(refusals)}", FailureCode.POLICY)
