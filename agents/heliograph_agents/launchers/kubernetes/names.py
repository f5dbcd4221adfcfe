"""Names, labels and places of what the agent makes in a cluster: nobody else may set any of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from heliograph_agents.launcher import Handle, RunSpec
from heliograph_agents.launchers.labels import LABEL, attempt_in

PREFIX = "helio-"
"""Beginning of the names of Jobs and Secrets."""

CONTAINER = "flow"
"""The container that the attempt runs in."""

OFFER_VOLUME, WORK_VOLUME = "heliograph-offer", "heliograph-work"

PLACE = "/heliograph"
"""Where both volumes are in the container."""

OFFER, WORK = f"{PLACE}/offer", f"{PLACE}/work"

TERMINATION_LOG = "/dev/termination-log"

SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"

MAX_NAME = 63


def job_name(spec: RunSpec) -> str:
    """Returns the name of an attempt's Job and Secret: the same however often it is launched.

    It shows the flow, as far as there is room. Run and epoch alone make it unique.
    """
    end = f"{spec.run_id.lower()}-{spec.epoch}"
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", end) or len(PREFIX + end) > MAX_NAME:
        end = hashlib.sha256(f"{spec.flow_run}\0{spec.epoch}".encode()).hexdigest()[:40]
    flow = re.sub(r"[^a-z0-9]+", "-", spec.flow_version.split("/")[3].lower())
    slug = flow[: max(0, MAX_NAME - len(PREFIX) - 1 - len(end))].strip("-")
    return f"{PREFIX}{slug}-{end}" if slug else f"{PREFIX}{end}"


def pool_label(agent: str, address: str) -> str:
    """Returns the value of the label that keeps agents apart: of this agent at this control plane."""
    return hashlib.sha256(f"{agent}\0{address}".encode()).hexdigest()[:24]


def labels_of(spec: RunSpec, pool: str) -> dict[str, str]:
    """Returns the labels of an attempt's Job, Pod and Secret."""
    return {
        LABEL + "agent": pool,
        LABEL + "run-id": _run_label(spec.run_id),
        LABEL + "epoch": str(spec.epoch),
        "app.kubernetes.io/managed-by": "heliograph",
    }


def selector(pool: str) -> str:
    """Returns the label selector of what belongs to an agent."""
    return f"{LABEL}agent={pool}"


def selector_of(handle: Handle, pool: str) -> str:
    """Returns the label selector of what belongs to an attempt; of another one too, should its id be no label."""
    return f"{selector(pool)},{LABEL}epoch={handle.epoch},{LABEL}run-id={_run_label(handle.run_id)}"


def _run_label(run_id: str) -> str:
    return run_id if re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", run_id) else "unnamed"


def infrastructure(namespace: str, name: str) -> str:
    """Returns the name that a handle has for a Job."""
    return f"{namespace}/{name}"


def namespace_and_name(handle: Handle) -> tuple[str, str]:
    """Returns where a handle's Job is."""
    namespace, _, name = handle.infrastructure.partition("/")
    return namespace, name


def handle_of(job: Mapping[str, Any]) -> Handle | None:
    """Returns the attempt that a Job names; None when it names none."""
    meta = job.get("metadata") or {}
    notes = meta.get("annotations") or {}
    here = infrastructure(str(meta.get("namespace")), str(meta.get("name")))
    return attempt_in(notes, lambda *_: here)
