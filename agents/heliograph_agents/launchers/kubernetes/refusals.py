"""What it means when a cluster refuses a Job: the flow's fault, the agent's, or something that passes."""

from __future__ import annotations

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.launcher import LaunchError
from heliograph_agents.launchers.kubernetes.api import ApiRefusedError

QUOTA_SECONDS = 60.0
"""How long a run waits in the queue whose namespace is full."""


def refused(error: ApiRefusedError, namespace: str) -> LaunchError:
    """Returns what is said of a Job that the API did not create."""
    words = str(error).lower()
    if "exceeded quota" in words:
        message = f"the quota of namespace {namespace} is used up: {error}"
        return LaunchError(message, retry_seconds=QUOTA_SECONDS, no_room=True, delay=LaunchDelay.QUOTA)
    if error.status in (400, 413, 422):
        return LaunchError(f"the cluster refuses the Job: {error}", FailureCode.LAUNCH_SETTINGS)
    if error.status == 403 and "being terminated" in words:
        message = f"namespace {namespace} is being deleted: {error}"
        return LaunchError(message, retry_seconds=QUOTA_SECONDS, no_room=True, delay=LaunchDelay.SETTINGS)
    if error.status == 403 and ("admission" in words or "denied the request" in words):
        return LaunchError(f"the cluster refuses the Job: {error}", FailureCode.LAUNCH_SETTINGS)
    if error.status == 404:
        return LaunchError(f"there is no namespace {namespace}: {error}", delay=LaunchDelay.SETTINGS)
    if error.status in (401, 403):
        return LaunchError(
            f"this agent may not create Jobs in namespace {namespace}: {error}. What it needs is printed by:"
            f" heliograph agent kubernetes rbac --namespace {namespace}",
            delay=LaunchDelay.PERMISSION,
        )
    delay = LaunchDelay.THROTTLED if error.status == 429 else LaunchDelay.PLATFORM
    return LaunchError(f"the cluster refuses the Job: {error}", delay=delay)
