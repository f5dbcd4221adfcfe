"""What the owner of a Kubernetes agent sets for all of its Jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heliograph_agents.most import BOUNDLESS, Most

PULL_POLICIES = ("IfNotPresent", "Always", "Never")


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """The agent's own settings: defaults of run configs, and what they are added to.

    Attributes:
        namespaces: Where Jobs may be; the first is that of runs that name none. Empty means that of the kubeconfig's
            context, or of the agent's own pod.
        kubeconfig: The kubeconfig; empty means the pod's service account, then `KUBECONFIG`, then `~/.kube/config`.
        context: Context of the kubeconfig; empty means the current one.
        template: Job that all others are made from: a Job, a PodTemplate or the spec of one.
        image: Image of flows that name none.
        image_pull_policy: When images are pulled, where nobody says; empty means the cluster's rule.
        image_pull_secrets: Names of the secrets of registries, where nobody says.
        service_account: Service account of runs that name none.
        cpu, memory: Requests and limits of runs that say nothing, as Kubernetes writes them.
        keep_success_seconds: How long the Job of a good run is kept.
        keep_failed_seconds: How long that of a failed one is.
        ttl_seconds: After how long the cluster itself removes an ended Job, should no agent be there.
        image_grace_seconds: How long an image may fail to be pulled.
        config_grace_seconds: How long a container may fail to be made.
        crash_lines: Lines of a container's output that go into the agent's log when it died before it was heard of.
        rate, burst: Most requests per second to the API, and how many at once.
        timeout_seconds: Longest wait for one answer.
        show_logs: True to repeat the output of containers on the agent's.
        most: What the agent's policy lets one run take: the limit of runs that have none.
    """

    namespaces: tuple[str, ...] = ()
    kubeconfig: str = ""
    context: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    image: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    cpu: str = ""
    memory: str = ""
    keep_success_seconds: float = 300.0
    keep_failed_seconds: float = 3600.0
    ttl_seconds: int = 86400
    image_grace_seconds: float = 300.0
    config_grace_seconds: float = 30.0
    crash_lines: int = 200
    rate: float = 10.0
    burst: int = 20
    timeout_seconds: float = 30.0
    show_logs: bool = False
    most: Most = BOUNDLESS
