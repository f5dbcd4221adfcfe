"""What an agent's policy judges of a Job: all that the run config brings beyond what the agent's own template has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from heliograph_agents.launcher import PlanFacts
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.manifest import flow_container
from heliograph_agents.launchers.kubernetes.resources import containers_of, limit_of, total

_OURS = (names.OFFER_VOLUME, names.WORK_VOLUME)
_HARMLESS = ("emptyDir", "downwardAPI")
_APPARMOR_NOTE = "container.apparmor.security.beta.kubernetes.io/"
"""How clusters before 1.30 are told a container's profile; newer ones still read it."""


def facts_of(
    job: Mapping[str, Any], own: Mapping[str, Any], *, env: Iterable[str], options: Iterable[str]
) -> PlanFacts:
    """Returns the facts.

    Args:
        job: The Job.
        own: The Job as it would be without the run config: what it has was put there by the agent's owner.
        env: Names of the variables that the run config sets.
        options: Names of the options that it uses.
    """
    flow = flow_container(job)
    seen = _variables(job) - _variables(own)
    privileged = _privileged(job) - _privileged(own)
    return PlanFacts(
        image=str(flow["image"]),
        more_images=tuple(sorted(_images(job) - _images(own) - {str(flow["image"])})),
        env=tuple(sorted({*env} | seen)),
        mounts=tuple(sorted(_mounts(job) - _mounts(own))),
        cpu_millis=math.ceil(total(_pod(job), "cpu") * 1000),
        memory_bytes=math.ceil(total(_pod(job), "memory")),
        privileged=tuple(sorted({word for _, word in privileged})),
        identities=tuple(sorted(_identities(job) - _identities(own))),
        options=tuple(sorted(options)),
        unlimited=tuple(unit for unit in ("cpu", "memory") if _unlimited(job, own, unit)),
    )


def _pod(job: Mapping[str, Any]) -> Mapping[str, Any]:
    pod: Mapping[str, Any] = job["spec"]["template"]["spec"]
    return pod


def _containers(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return containers_of(_pod(job))


def _images(job: Mapping[str, Any]) -> set[str]:
    return {str(one["image"]) for one in _containers(job)}


def _variables(job: Mapping[str, Any]) -> set[str]:
    return {str(variable.get("name")) for one in _containers(job) for variable in one.get("env") or ()}


def _mounts(job: Mapping[str, Any]) -> set[str]:
    """Names what of the cluster the pod sees: `/path` of the node, `pvc/NAME`, `secret/NAME`, `configmap/NAME`, else
    the kind of volume; with `:ro` where no container can write."""
    pod, found = _pod(job), set()
    for volume in pod.get("volumes") or ():
        if volume["name"] in _OURS:
            continue
        uses = [mount for one in _containers(job) for mount in one.get("volumeMounts") or ()
                if mount.get("name") == volume["name"]]  # fmt: skip
        suffix = ":ro" if uses and all(mount.get("readOnly") is True for mount in uses) else ""
        for kind, source in volume.items():
            if kind != "name" and kind not in _HARMLESS:
                found |= {fact + suffix for fact in _sources(kind, source)}
    for container in _containers(job):
        for one in container.get("envFrom") or ():
            for kind, source in one.items():
                if kind in ("secretRef", "configMapRef") and isinstance(source, Mapping):
                    found.add(f"{kind[:-3].lower()}/{source.get('name')}:ro")
        for one in container.get("env") or ():
            for kind, source in (one.get("valueFrom") or {}).items():
                if kind in ("secretKeyRef", "configMapKeyRef") and isinstance(source, Mapping):
                    found.add(f"{kind[:-6].lower()}/{source.get('name')}:ro")
    return found


def _sources(kind: str, source: Any) -> set[str]:
    if not isinstance(source, Mapping):
        return {kind}
    if kind == "hostPath":
        return {str(source.get("path"))}
    if kind == "persistentVolumeClaim":
        return {f"pvc/{source.get('claimName')}"}
    if kind == "secret":
        return {f"secret/{source.get('secretName')}"}
    if kind == "configMap":
        return {f"configmap/{source.get('name')}"}
    if kind == "projected":
        found = set()
        for part in source.get("sources") or ():
            for inner, what in part.items():
                if inner not in _HARMLESS:
                    name = what.get("name", "") if isinstance(what, Mapping) else ""
                    found.add(f"{inner.lower()}/{name}" if name else inner)
        return found
    return {kind}


def _identities(job: Mapping[str, Any]) -> set[str]:
    pod = _pod(job)
    account = pod.get("serviceAccountName") or pod.get("serviceAccount") or ""
    if account:
        return {str(account)}
    return {"default"} if pod.get("automountServiceAccountToken") is not False else set()


def _privileged(job: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Returns rights beyond those of an ordinary pod, with the container that has them."""
    pod = _pod(job)
    found = {("", word) for key, word in (("hostNetwork", "host network"), ("hostPID", "host processes"),
                                          ("hostIPC", "host memory")) if pod.get(key)}  # fmt: skip
    if pod.get("hostUsers") is True:
        found.add(("", "host users"))
    found |= {("", word) for word in _rights(pod.get("securityContext"))}
    for one in _containers(job):
        name = str(one.get("name"))
        found |= {(name, word) for word in _rights(one.get("securityContext"))}
        if job["spec"]["template"]["metadata"]["annotations"].get(_APPARMOR_NOTE + name) == "unconfined":
            found.add((name, "appArmorProfile Unconfined"))
        found |= {(name, "host port") for port in one.get("ports") or () if port.get("hostPort")}
    return found


def _rights(context: Any) -> set[str]:
    if not isinstance(context, Mapping):
        return set()
    words = {word for key, word in (("privileged", "privileged"),) if context.get(key)}
    added = context.get("capabilities")
    if isinstance(added, Mapping):
        words |= {f"cap_add {one}" for one in added.get("add") or ()}
    if context.get("procMount") not in (None, "Default"):
        words.add("procMount")
    for key in ("seccompProfile", "appArmorProfile"):
        profile = context.get(key)
        if isinstance(profile, Mapping) and profile.get("type") == "Unconfined":
            words.add(f"{key} Unconfined")
    for key in ("seLinuxOptions", "windowsOptions", "sysctls"):
        if context.get(key):
            words.add(key)
    return words


def _unlimited(job: Mapping[str, Any], own: Mapping[str, Any], unit: str) -> bool:
    """True when a container has no limit that the run config brings, or changes: the owner's own may do as they do."""
    known = [one for one in _containers(own) if one.get("name") != names.CONTAINER]
    return any(limit_of(one, unit) is None and one not in known for one in _containers(job))
