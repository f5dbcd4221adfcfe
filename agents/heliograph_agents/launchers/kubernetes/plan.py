"""What the launcher will start for an attempt: a Job, and what the agent's policy judges of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.engine.codes import FailureCode
from heliograph.storage import LaunchSettings
from heliograph_agents.launcher import Handle, LaunchError, PlanFacts, RunSpec
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.facts import facts_of
from heliograph_agents.launchers.kubernetes.manifest import Owner, build
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions

_NO_IMAGE = "nothing.invalid/none"


@dataclass(frozen=True, slots=True)
class KubernetesPlan:
    """One Job.

    Attributes:
        spec: The attempt.
        facts: What the policy judges.
        job: The Job, as the API takes it.
    """

    spec: RunSpec
    facts: PlanFacts
    job: Mapping[str, Any]

    @property
    def handle(self) -> Handle:
        """The attempt's handle."""
        found = names.handle_of(self.job)
        assert found is not None
        return found


def make_plan(
    spec: RunSpec, settings: LaunchSettings, agent: KubernetesOptions, owner: Owner, namespaces: tuple[str, ...]
) -> KubernetesPlan:
    """Puts the Job together.

    Args:
        spec: The attempt.
        settings: What its author asks for.
        agent: What the agent's owner sets.
        owner: Whose Job it is.
        namespaces: Those that the agent uses; the first is that of runs that name none.

    Raises:
        LaunchError: It cannot be made.
    """
    namespace = str(settings.options.get("namespace") or namespaces[0])
    if namespace not in namespaces:
        raise _refusal(f"this agent does not use the namespace {namespace}; it uses {', '.join(namespaces)}")
    try:
        job = build(spec, settings, agent, owner, namespace)
        bare = LaunchSettings(image=settings.image or _NO_IMAGE, start_timeout_seconds=settings.start_timeout_seconds)
        own = build(spec, bare, agent, owner, namespace)
        facts = facts_of(job, own, env=settings.env, options=settings.options)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # the boundary to what authors write
        raise _refusal(f"its Job cannot be made: {error}") from error
    return KubernetesPlan(spec, facts, job)


def _refusal(message: str) -> LaunchError:
    return LaunchError(message, FailureCode.LAUNCH_SETTINGS)
