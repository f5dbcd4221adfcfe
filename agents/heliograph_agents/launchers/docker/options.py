"""What the owner of a Docker agent sets for all of its containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from heliograph_agents.launchers.docker.volumes import Volume
from heliograph_agents.most import BOUNDLESS, Most

PULL_POLICIES = ("IfNotPresent", "Always", "IfPossible", "Never")
KEEP = ("never", "failed", "always")

HOST_ALIAS = "host.docker.internal"
HOST_GATEWAY = "host-gateway"


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """The agent's own settings: defaults of run configs, and what they are added to.

    Attributes:
        base_url: The engine; empty means `DOCKER_HOST`, then the Docker command's context, then this host's socket.
        timeout_seconds: Longest wait for one answer of the engine.
        image: Image of flows that name none; empty means they are refused.
        pull_policy: One of `PULL_POLICIES`; empty means by tag.
        networks: Networks of runs that name none.
        volumes: Volumes of every run.
        extra_hosts: Names and addresses of every run.
        cpus: Processors of runs that say nothing; 0 means no limit.
        memory_bytes: Memory of runs that say nothing; 0 means no limit.
        keep: Whose containers are kept after their end: nobody's, those of failed runs, or all.
        keep_seconds: How long they are kept.
        keep_count: How many are kept.
        show_logs: True to repeat the output of containers on the agent's.
        crash_lines: Lines of a container's output that go into the agent's log when it died before it was heard of.
        most: What the agent's policy lets one run take: the limit of runs that have none.
    """

    base_url: str = ""
    timeout_seconds: float = 60.0
    image: str = ""
    pull_policy: str = ""
    networks: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=lambda: {HOST_ALIAS: HOST_GATEWAY})
    cpus: float = 0.0
    memory_bytes: int = 0
    keep: str = "failed"
    keep_seconds: float = 24 * 3600.0
    keep_count: int = 50
    show_logs: bool = False
    crash_lines: int = 200
    most: Most = BOUNDLESS


def is_mode(network: str) -> bool:
    """True for what is a network mode and no network: the host's, none, the default bridge, another container's."""
    return network in ("host", "none", "bridge", "default") or network.startswith("container:")
