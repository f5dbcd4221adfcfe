"""The Job of an attempt: template, run config and patches put together, then what is the agent's own. Pure.

Three layers: the run config's job template or else the agent's; the run config's plain fields; its patches. What makes
an attempt an attempt is written over whatever they say, or refused: the name, the labels, one pod that is never made
again, the container `flow` and its command, and the Secret that nothing but this container sees.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.storage import LaunchSettings
from heliograph.utilities.merging import apply_json_patch, merge
from heliograph_agents.container import POD_VARIABLE
from heliograph_agents.launcher import RunSpec
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.resources import hold
from heliograph_agents.launchers.kubernetes.validation import ManifestError, check
from heliograph_agents.launchers.labels import LABEL, labels_of

MAX_BYTES = 1024 * 1024
"""Most that a manifest may have: what the API takes, with room to spare."""

KNOWN = {
    "namespace", "job_template", "cpu_limit", "cpu_request", "memory_limit", "memory_request", "ephemeral_storage",
    "gpu", "gpu_resource", "service_account_name", "image_pull_secrets", "image_pull_policy", "node_selector",
    "tolerations", "affinity", "env_from", "volumes", "priority_class", "runtime_class", "pod_labels",
    "pod_annotations", "pod_patch", "json_patch", "python",
}  # fmt: skip
"""Options of run configs."""

_ONE_POD = ("suspend", "selector", "manualSelector", "podFailurePolicy", "successPolicy", "backoffLimitPerIndex",
            "maxFailedIndexes", "completionMode", "podReplacementPolicy", "managedBy")  # fmt: skip
"""What of a Job's spec would have its pod made again, or by somebody else, or not at all."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose Jobs they are.

    Attributes:
        agent: Name of the agent.
        pool: Value of the label that keeps agents apart.
        end_seconds: How long a pod has to end.
    """

    agent: str
    pool: str
    end_seconds: float


def build(
    spec: RunSpec, settings: LaunchSettings, agent: KubernetesOptions, owner: Owner, namespace: str
) -> dict[str, Any]:
    """Returns the Job.

    Raises:
        ManifestError: It cannot be made, or would not be what it must be.
    """
    options = dict(settings.options)
    if unknown := options.keys() - KNOWN:
        raise ManifestError(f"Kubernetes agents know no option {', '.join(sorted(unknown))}")
    own_template = options.get("job_template") or {}
    job = _as_job(own_template or agent.template)
    _fill(job, settings, options, agent)
    pod = job["spec"]["template"]
    if patch := options.get("pod_patch"):
        pod = job["spec"]["template"] = merge(pod, patch)
    if operations := options.get("json_patch"):
        job = apply_json_patch(job, operations)
    _check_frame(job)
    _make_ours(job, spec, settings, agent, owner, namespace, str(options.get("python") or "python"))
    check(job)
    hold(job["spec"]["template"]["spec"], flow_container(job), agent.most)
    if len(json.dumps(job)) > MAX_BYTES:
        raise ManifestError(f"the manifest is larger than {MAX_BYTES:,} bytes")
    return job


def _as_job(template: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a Job of what is a Job, a PodTemplate, a Pod, or a part of one."""
    given = copy.deepcopy(dict(template))
    kind = given.get("kind", "")
    if kind not in ("", "Job", "PodTemplate", "Pod"):
        raise ManifestError(f"a job template is a Job, a PodTemplate or a Pod, not a {kind}")
    if kind == "PodTemplate":
        given = {"spec": {"template": given.get("template") or {}}}
    elif kind == "Pod" or "containers" in (given.get("spec") or {}):
        pod = {key: given[key] for key in ("metadata", "spec") if key in given}
        pod.get("metadata", {}).pop("name", None)
        given = {"spec": {"template": pod}}
    given.pop("status", None)
    job: dict[str, Any] = {**given, "apiVersion": "batch/v1", "kind": "Job"}
    _check_frame(job)
    return job


def _check_frame(job: Mapping[str, Any]) -> None:
    """Sees to it that what everything is in is there, and is what it should be."""
    place: Any = job
    for part in ("metadata",), ("spec",), ("spec", "template"), ("spec", "template", "metadata"), \
            ("spec", "template", "spec"):  # fmt: skip
        place = job
        for name in part:
            there = place.get(name)
            if there is None:
                there = place[name] = {}
            if not isinstance(there, dict):
                raise ManifestError(f"{'.'.join(part)} of the Job is no mapping")
            place = there
    containers = place.setdefault("containers", [])
    if not isinstance(containers, list) or not all(isinstance(one, dict) for one in containers):
        raise ManifestError("spec.template.spec.containers is no list of containers")


def flow_container(job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the container that the attempt runs in: the one named `flow`, else the first, which gets that name."""
    containers: list[dict[str, Any]] = job["spec"]["template"]["spec"]["containers"]
    found = next((one for one in containers if one.get("name") == names.CONTAINER), None)
    if found is None:
        if not containers:
            containers.append({})
        found = containers[0]
        found["name"] = names.CONTAINER
    return found


def _fill(job: dict[str, Any], settings: LaunchSettings, options: Mapping[str, Any], agent: KubernetesOptions) -> None:
    """Writes the plain fields over the template, and the agent's defaults where nobody says anything."""
    pod, flow = job["spec"]["template"]["spec"], flow_container(job)

    def choose(place: dict[str, Any], key: str, asked: Any, default: Any) -> None:
        """Run config over template over agent."""
        if asked not in (None, "", [], {}):
            place[key] = copy.deepcopy(asked)
        elif default not in (None, "", [], {}) and place.get(key) in (None, "", [], {}):
            place[key] = default

    choose(flow, "image", settings.image, agent.image)
    choose(flow, "imagePullPolicy", options.get("image_pull_policy"), agent.image_pull_policy)
    choose(pod, "serviceAccountName", options.get("service_account_name"), agent.service_account)
    secrets = [_named(one) for one in options.get("image_pull_secrets") or ()]
    choose(pod, "imagePullSecrets", secrets, [{"name": name} for name in agent.image_pull_secrets])
    if not pod.get("serviceAccountName"):
        # Flows that name no account get no token of the cluster's API.
        pod.setdefault("automountServiceAccountToken", False)
    for key, name in (("nodeSelector", "node_selector"), ("affinity", "affinity"),
                      ("priorityClassName", "priority_class"), ("runtimeClassName", "runtime_class")):  # fmt: skip
        choose(pod, key, options.get(name), None)
    if options.get("tolerations"):
        pod["tolerations"] = [*(pod.get("tolerations") or []), *copy.deepcopy(options["tolerations"])]
    if options.get("env_from"):
        flow["envFrom"] = [*(flow.get("envFrom") or []), *copy.deepcopy(options["env_from"])]
    _fill_resources(flow, settings, options, agent)
    _fill_volumes(pod, flow, options)
    meta = job["spec"]["template"]["metadata"]
    for key, name in (("labels", "pod_labels"), ("annotations", "pod_annotations")):
        if options.get(name):
            meta[key] = {**(meta.get(key) or {}), **options[name]}


def _named(secret: Any) -> dict[str, Any]:
    return dict(secret) if isinstance(secret, Mapping) else {"name": secret}


def _fill_resources(
    flow: dict[str, Any], settings: LaunchSettings, options: Mapping[str, Any], agent: KubernetesOptions
) -> None:
    resources = flow.setdefault("resources", {})
    if not isinstance(resources, dict):
        raise ManifestError("resources of the container are no mapping")
    limits, requests = dict(resources.get("limits") or {}), dict(resources.get("requests") or {})
    nothing_said = not limits and not requests
    for unit, default in (("cpu", agent.cpu), ("memory", agent.memory)):
        limit, request = options.get(f"{unit}_limit"), options.get(f"{unit}_request")
        if nothing_said and not limit and not request and default:
            limit = request = default
        if limit:
            limits[unit] = limit
        if request:
            requests[unit] = request
    if not limits.get("cpu") and not requests.get("cpu") and settings.cpu_millis:
        limits["cpu"] = requests["cpu"] = f"{settings.cpu_millis}m"
    if not limits.get("memory") and not requests.get("memory") and settings.memory_bytes:
        limits["memory"] = requests["memory"] = str(settings.memory_bytes)
    if options.get("ephemeral_storage"):
        limits["ephemeral-storage"] = requests["ephemeral-storage"] = options["ephemeral_storage"]
    if options.get("gpu"):
        limits[str(options.get("gpu_resource") or "nvidia.com/gpu")] = options["gpu"]
    for key, found in (("limits", limits), ("requests", requests)):
        if found:
            resources[key] = found
    if not resources:
        del flow["resources"]


def _fill_volumes(pod: dict[str, Any], flow: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Adds volumes; one that says where it is mounted is mounted there."""
    for given in options.get("volumes") or ():
        volume = dict(given)
        mount = {"name": volume.get("name")}
        for key in ("mountPath", "subPath", "readOnly"):
            if key in volume:
                mount[key] = volume.pop(key)
        pod["volumes"] = merge({"volumes": pod.get("volumes") or []}, {"volumes": [volume]})["volumes"]
        if "mountPath" in mount:
            flow["volumeMounts"] = merge(
                {"volumeMounts": flow.get("volumeMounts") or []}, {"volumeMounts": [mount]}
            )["volumeMounts"]  # fmt: skip


# --- what is ours ----------------------------------------------------------------------------------------------------


def _make_ours(
    job: dict[str, Any], spec: RunSpec, settings: LaunchSettings, agent: KubernetesOptions, owner: Owner,
    namespace: str, python: str,
) -> None:  # fmt: skip
    name, labels = names.job_name(spec), names.labels_of(spec, owner.pool)
    notes = {
        **labels_of(spec, settings.start_timeout_seconds),
        f"{LABEL}agent-name": owner.agent,
        f"{LABEL}run-name": spec.run_name,
    }
    job["apiVersion"], job["kind"] = "batch/v1", "Job"
    job.pop("status", None)
    job["metadata"] = {
        "name": name,
        "namespace": namespace,
        "labels": {**_foreign(job["metadata"], "labels"), **labels},
        "annotations": {**_foreign(job["metadata"], "annotations"), **notes},
    }
    body = job["spec"]
    for key in _ONE_POD:
        body.pop(key, None)
    body |= {"parallelism": 1, "completions": 1, "backoffLimit": 0, "ttlSecondsAfterFinished": agent.ttl_seconds}
    template = body["template"]
    meta = template["metadata"]
    evictable = {names.SAFE_TO_EVICT: "false"}
    template["metadata"] = {
        "labels": {**_foreign(meta, "labels"), **labels},
        "annotations": {**evictable, **_foreign(meta, "annotations"), **notes},
    }
    pod = template["spec"]
    pod["restartPolicy"] = "Never"
    least = math.ceil(owner.end_seconds)
    asked = pod.get("terminationGracePeriodSeconds")
    pod["terminationGracePeriodSeconds"] = max(least, asked) if isinstance(asked, int) else least
    flow = flow_container(job)
    _keep_ours_ours(pod, flow)
    flow["command"] = [python, "-m", "heliograph_agents.container", names.OFFER, "--runs", f"{names.WORK}/runs",
                       "--termination-log", names.TERMINATION_LOG]  # fmt: skip
    flow.pop("args", None)
    flow["terminationMessagePath"], flow["terminationMessagePolicy"] = names.TERMINATION_LOG, "File"
    flow["env"] = [
        *(one for one in flow.get("env") or [] if not _is_ours(one)),
        {"name": "HELIOGRAPH_HOME", "value": f"{names.WORK}/home"},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        # By it the container knows whether it is the pod that the offer was made to.
        {"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
    ]
    flow["volumeMounts"] = [
        *(flow.get("volumeMounts") or []),
        {"name": names.OFFER_VOLUME, "mountPath": names.OFFER, "readOnly": True},
        {"name": names.WORK_VOLUME, "mountPath": names.WORK},
    ]
    pod["volumes"] = [
        *(pod.get("volumes") or []),
        # Readable by all in the container: its user may be anyone, and nobody else is there.
        {"name": names.OFFER_VOLUME, "secret": {"secretName": name, "defaultMode": 0o444}},
        {"name": names.WORK_VOLUME, "emptyDir": {}},
    ]


def _is_ours(variable: Any) -> bool:
    return isinstance(variable, Mapping) and variable.get("name") in ("HELIOGRAPH_HOME", "PYTHONUNBUFFERED",
                                                                      POD_VARIABLE)  # fmt: skip


def _foreign(meta: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Returns the labels or annotations that others wrote: none of ours may be among them."""
    found = meta.get(key) or {}
    if not isinstance(found, Mapping):
        raise ManifestError(f"{key} are no mapping")
    if taken := sorted(one for one in found if str(one).startswith(LABEL)):
        raise ManifestError(f"{key} that begin with {LABEL} are the agent's: {', '.join(taken)}")
    return dict(found)


def _keep_ours_ours(pod: Mapping[str, Any], flow: Mapping[str, Any]) -> None:
    """Refuses what would take the offer's place, or let anybody else look into it."""
    for volume in pod.get("volumes") or []:
        if isinstance(volume, Mapping) and volume.get("name") in (names.OFFER_VOLUME, names.WORK_VOLUME):
            raise ManifestError(f"the volume {volume['name']} is the agent's")
    for container in [*(pod.get("containers") or []), *(pod.get("initContainers") or [])]:
        if not isinstance(container, Mapping):
            continue
        if container.get("name") == names.CONTAINER and container is not flow:
            raise ManifestError(f"two containers are named {names.CONTAINER}")
        for mount in container.get("volumeMounts") or []:
            path = str(mount.get("mountPath", "")) if isinstance(mount, Mapping) else ""
            clean = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
            if clean == names.PLACE or clean.startswith(names.PLACE + "/") or ".." in path.split("/"):
                raise ManifestError(f"{path} in a container is the agent's")
            if isinstance(mount, Mapping) and mount.get("name") in (names.OFFER_VOLUME, names.WORK_VOLUME):
                raise ManifestError(f"the volume {mount['name']} is the agent's")
    for place in _secret_names(pod):
        if place.startswith(names.PREFIX):
            raise ManifestError(f"the secret {place} is of an attempt: secrets that begin with {names.PREFIX} are ours")


def _secret_names(node: Any) -> list[str]:
    """Returns all names of secrets that a pod refers to, wherever it does."""
    found: list[str] = []
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "secretName" and isinstance(value, str):
                found.append(value)
            elif key in ("secretKeyRef", "secretRef", "secret", "nodePublishSecretRef") and isinstance(value, Mapping):
                found += [str(value[name]) for name in ("name", "secretName") if name in value]
                found += _secret_names(value)
            else:
                found += _secret_names(value)
    elif isinstance(node, list):
        for one in node:
            found += _secret_names(one)
    return found
