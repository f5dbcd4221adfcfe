"""What an attempt is found by wherever it runs: in labels of containers, in tags of tasks, in annotations of Jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from heliograph_agents.launcher import Handle, RunSpec

LABEL = "heliograph.io/"
"""Beginning of the names of all that is the agent's to set; run configs cannot set any of it."""


def labels_of(spec: RunSpec, start_timeout_seconds: float) -> dict[str, str]:
    """Returns what names an attempt."""
    return {
        f"{LABEL}flow-run": spec.flow_run,
        f"{LABEL}epoch": str(spec.epoch),
        f"{LABEL}start-timeout": f"{float(start_timeout_seconds):g}",
    }


def attempt_in(labels: Mapping[str, str], name: Callable[[str, int], str]) -> Handle | None:
    """Returns the attempt that labels name; None when they name none.

    Args:
        labels: What `labels_of` has made, among others.
        name: Returns the launcher's own name for the infrastructure of a run id and an epoch.
    """
    flow_run, epoch = labels.get(f"{LABEL}flow-run", ""), labels.get(f"{LABEL}epoch", "")
    if not flow_run or not epoch.isdecimal():
        return None
    try:
        timeout = float(labels.get(f"{LABEL}start-timeout", "0"))
    except ValueError:
        timeout = 0.0
    return Handle(flow_run, int(epoch), name(flow_run.rpartition("/")[2], int(epoch)), timeout)
