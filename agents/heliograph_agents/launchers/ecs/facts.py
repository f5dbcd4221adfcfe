"""What of a task definition, and of arguments of `RunTask`, an agent's policy judges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def variables_in(document: Mapping[str, Any]) -> set[str]:
    """Returns the names of variables that a definition, or overrides, set in any container."""
    overrides = document.get("overrides") or {}
    containers = [*(document.get("containerDefinitions") or ()), *(overrides.get("containerOverrides") or ())]
    return {
        str(one.get("name"))
        for container in containers
        for key in ("environment", "secrets")
        for one in container.get(key) or ()
    }


def mounts_in(definition: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what a definition mounts of its host, or of file systems: paths, and `efs:ID`."""
    found = []
    for volume in definition.get("volumes") or ():
        if path := (volume.get("host") or {}).get("sourcePath"):
            found.append(str(path))
        if efs := volume.get("efsVolumeConfiguration"):
            found.append(f"efs:{efs.get('fileSystemId')}")
        if windows := volume.get("fsxWindowsFileServerVolumeConfiguration"):
            found.append(f"fsx:{windows.get('fileSystemId')}")
        if volume.get("dockerVolumeConfiguration"):
            found.append(f"volume:{volume.get('name')}")
    return tuple(sorted(found))


def privileges_in(definition: Mapping[str, Any]) -> tuple[str, ...]:
    """Names the rights that a definition asks for beyond those of an ordinary container."""
    words = set()
    for container in definition.get("containerDefinitions") or ():
        linux = container.get("linuxParameters") or {}
        if container.get("privileged"):
            words.add("privileged")
        words |= {f"cap_add {one}" for one in (linux.get("capabilities") or {}).get("add") or ()}
        if linux.get("devices"):
            words.add("devices")
        if container.get("dockerSecurityOptions"):
            words.add("security_opt")
    for key, value, word in (
        ("networkMode", "host", "host network"),
        ("pidMode", "host", "host processes"),
        ("ipcMode", "host", "host memory"),
    ):
        if definition.get(key) == value:
            words.add(word)
    return tuple(sorted(words))


def identities_in(*documents: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the roles that options, a definition or overrides ask for."""
    names = ("task_role_arn", "execution_role_arn", "taskRoleArn", "executionRoleArn")
    return tuple(sorted(set(_values(documents, names))))


def _values(documents: Iterable[Mapping[str, Any]], names: tuple[str, ...]) -> Iterable[str]:
    for document in documents:
        for level in (document, document.get("overrides") or {}):
            yield from (str(level[name]) for name in names if level.get(name))
