"""Runs as Jobs of the agent's Kubernetes cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from heliograph.run_configs.base import RunConfig
from heliograph.storage.launch import LaunchSettings
from heliograph.utilities.merging import merge, pointer
from heliograph.utilities.quantities import parse_quantity

__all__ = ["KubernetesRun"]

PULL_POLICIES = ("IfNotPresent", "Always", "Never")
_OPERATIONS = ("add", "remove", "replace", "move", "copy", "test")
_QUANTITIES = ("cpu_limit", "cpu_request", "memory_limit", "memory_request", "ephemeral_storage", "gpu")
_OWN = ("namespace", "job_template", *_QUANTITIES, "gpu_resource", "service_account_name", "image_pull_secrets",
        "image_pull_policy", "node_selector", "tolerations", "affinity", "env_from", "volumes", "priority_class",
        "runtime_class", "pod_labels", "pod_annotations", "pod_patch", "json_patch", "python")  # fmt: skip
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class KubernetesRun(RunConfig):
    """A Job of the agent's cluster. What is not given is as its template has it, or else as the agent has it.

    The Job is made in this order: `job_template`, or else the agent's; the plain arguments; `pod_patch`; `json_patch`.
    The container named `flow`, or else the first one, is the one that they are about. Its command, the Job's name and
    whatever makes it start once are the agent's. The agent's policy judges the finished Job.

    Args:
        job_template: A Job, PodTemplate or Pod: a mapping, or its YAML.
        job_template_path: A file with it, read here and now.
        image: The image; best with its digest. It needs Heliograph, and what the flow imports.
        env: Environment variables of the run. They travel with the bundle, not in the Job.
        cpu_limit: Most processors, as `2` or `500m`.
        cpu_request: Processors that are kept for it.
        memory_limit: Most memory, as `512Mi`, `2Gi` or a number of bytes.
        memory_request: Memory that is kept for it.
        service_account_name: Its service account.
        image_pull_secrets: Secrets of registries, by name.
        labels: Labels that an agent must offer.
        image_pull_policy: `IfNotPresent`, `Always` or `Never`.
        namespace: One of the agent's namespaces. By default its first.
        node_selector: Labels that a node must have.
        tolerations: Tolerations, added to those of the template.
        affinity: Affinity, as Kubernetes has it.
        env_from: Sources of more variables: `{"configMapRef": {"name": …}}`, `{"secretRef": {"name": …}}`.
        volumes: Volumes, as Kubernetes has them. One with a `mountPath` (and `subPath`, `readOnly`) is mounted there.
        priority_class: Its priority class.
        runtime_class: Its runtime class.
        gpu: How many GPUs.
        gpu_resource: What a GPU is called there. Default: `nvidia.com/gpu`.
        ephemeral_storage: Room on the node's disk, as `10Gi`.
        pod_labels: Labels of the pod.
        pod_annotations: Annotations of the pod.
        pod_patch: A strategic merge into the Job's pod template, with `metadata` and `spec`: containers, volumes and
            variables are found by name.
        json_patch: JSON Patch operations (RFC 6902) on the Job.
        python: The interpreter in the image. Default: `python`.
        start_timeout_seconds: How long it may take until the run is heard of.

    Raises:
        TypeError, ValueError: An argument is not what it should be.
    """

    launcher: ClassVar[str] = "kubernetes"

    def __init__(
        self,
        job_template_path: str | Path | None = None,
        job_template: Mapping[str, Any] | str | None = None,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        cpu_limit: str | float | None = None,
        cpu_request: str | float | None = None,
        memory_limit: str | int | None = None,
        memory_request: str | int | None = None,
        service_account_name: str | None = None,
        image_pull_secrets: Iterable[str] | None = None,
        labels: Iterable[str] | None = None,
        image_pull_policy: str | None = None,
        *,
        namespace: str | None = None,
        node_selector: Mapping[str, str] | None = None,
        tolerations: Sequence[Mapping[str, Any]] | None = None,
        affinity: Mapping[str, Any] | None = None,
        env_from: Sequence[Mapping[str, Any]] | None = None,
        volumes: Sequence[Mapping[str, Any]] | None = None,
        priority_class: str | None = None,
        runtime_class: str | None = None,
        gpu: int | str | None = None,
        gpu_resource: str | None = None,
        ephemeral_storage: str | int | None = None,
        pod_labels: Mapping[str, str] | None = None,
        pod_annotations: Mapping[str, str] | None = None,
        pod_patch: Mapping[str, Any] | None = None,
        json_patch: Sequence[Mapping[str, Any]] | None = None,
        python: str | None = None,
        start_timeout_seconds: int | None = None,
    ) -> None:
        super().__init__(env, labels)
        if job_template is not None and job_template_path is not None:
            raise ValueError("give job_template or job_template_path, not both")
        if job_template_path is not None:
            job_template = _read(str(job_template_path))
        if isinstance(job_template, str):
            job_template = _parsed(job_template)
        if isinstance(image_pull_secrets, str):
            raise TypeError(f"image_pull_secrets takes several names, like [{image_pull_secrets!r}]")
        if image_pull_policy is not None and image_pull_policy not in PULL_POLICIES:
            raise ValueError(f"image_pull_policy is one of {', '.join(PULL_POLICIES)}, not {image_pull_policy!r}")
        self.job_template = dict(job_template or {})
        self.image = image
        self.cpu_limit, self.cpu_request = cpu_limit, cpu_request
        self.memory_limit, self.memory_request = memory_limit, memory_request
        self.service_account_name = service_account_name
        self.image_pull_secrets = list(image_pull_secrets or ())
        self.image_pull_policy = image_pull_policy
        self.namespace = namespace
        self.node_selector = dict(node_selector or {})
        self.tolerations = list(tolerations or ())
        self.affinity = dict(affinity or {})
        self.env_from = list(env_from or ())
        self.volumes = list(volumes or ())
        self.priority_class, self.runtime_class = priority_class, runtime_class
        self.gpu, self.gpu_resource = gpu, gpu_resource
        self.ephemeral_storage = ephemeral_storage
        self.pod_labels, self.pod_annotations = dict(pod_labels or {}), dict(pod_annotations or {})
        self.pod_patch = dict(pod_patch or {})
        self.json_patch = list(json_patch or ())
        self.python = python
        self.start_timeout_seconds = start_timeout_seconds
        self.launch_settings()

    def launch_settings(self) -> LaunchSettings:
        """Returns the settings that the agent reads."""
        given = {name: getattr(self, name) for name in _OWN}
        options = {name: value for name, value in given.items() if value not in (None, {}, "") and value != []}
        _check(options)
        try:
            options = json.loads(json.dumps(options))
        except TypeError as error:
            raise TypeError(f"options of a Job must be JSON: {error}") from error
        cpu, memory = self.cpu_limit or self.cpu_request, self.memory_limit or self.memory_request
        return replace(
            super().launch_settings(),
            image=self.image or "",
            cpu_millis=int(parse_quantity(cpu) * 1000) if cpu else 0,
            memory_bytes=int(parse_quantity(memory)) if memory else 0,
            start_timeout_seconds=self.start_timeout_seconds or 0,
            options=options,
        )


def _check(options: Mapping[str, Any]) -> None:
    """Refuses what an agent would refuse whatever its template is."""
    for name in _QUANTITIES:
        if name in options:
            _check_quantity(name, options[name])
    for unit in ("cpu", "memory"):
        limit, request = options.get(f"{unit}_limit"), options.get(f"{unit}_request")
        if limit and request and parse_quantity(request) > parse_quantity(limit):
            raise ValueError(f"{unit}_request {request} is more than {unit}_limit {limit}")
    for name in ("namespace", "service_account_name", "priority_class", "runtime_class"):
        if name in options and not _NAME.fullmatch(str(options[name])):
            raise ValueError(f"{name}: {options[name]!r} is no name: lower-case letters, digits, - and .")
    for name in ("tolerations", "env_from", "volumes", "json_patch"):
        if not all(isinstance(one, Mapping) for one in options.get(name, ())):
            raise TypeError(f"{name} takes mappings")
    if missing := [one for one in options.get("volumes", ()) if not one.get("name")]:
        raise ValueError(f"volumes: {dict(missing[0])!r} has no name")
    _check_patches(options)


def _check_quantity(name: str, value: Any) -> None:
    try:
        found = parse_quantity(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if found <= 0:
        raise ValueError(f"{name}: {value!r} is not more than nothing")


def _check_patches(options: Mapping[str, Any]) -> None:
    for operation in options.get("json_patch", ()):
        if operation.get("op") not in _OPERATIONS or not isinstance(operation.get("path"), str):
            raise ValueError(
                f"json_patch: {dict(operation)!r} has no path, or its op is none of {', '.join(_OPERATIONS)}"
            )
        pointer(operation["path"])
    if patch := options.get("pod_patch"):
        if unknown := patch.keys() - {"metadata", "spec"}:
            raise ValueError(f"pod_patch is of the pod template: metadata and spec, not {', '.join(sorted(unknown))}")
        merge({}, patch)


def _read(path: str) -> str:
    kind, separator, rest = path.partition("://")
    if separator and kind not in ("file", "local"):
        raise ValueError(
            f"the job template {path} cannot be read here; give its YAML as job_template, a file, or have the agent"
            " started with --job-template"
        )
    return Path(rest if separator else path).expanduser().read_text("utf-8")


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        found: Any = json.loads(text)
    except ValueError:
        try:
            import yaml
        except ImportError as error:
            raise ValueError("a job template in YAML needs PyYAML: pip install 'heliograph[kubernetes]'") from error
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"the job template is no YAML: {error}") from error
    if not isinstance(found, Mapping):
        raise TypeError("a job template is a mapping")
    return found
