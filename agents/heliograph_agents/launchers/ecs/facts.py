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


def images_in(definition: Mapping[str, Any], container: str) -> tuple[str, ...]:
    """Returns the images of a definition's other containers: what runs beside the flow."""
    containers = definition.get("containerDefinitions") or ()
    return tuple(sorted({str(one["image"]) for one in containers if one.get("image") and one.get("name") != container}))


def mounts_in(definition: Mapping[str, Any], run_task: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what a task mounts of its host, of file systems or of disks: paths, `efs:ID`, `ebs:SNAPSHOT`."""
    found = []
    for volume in definition.get("volumes") or ():
        if path := (volume.get("host") or {}).get("sourcePath"):
            found.append(str(path))
        for key, source in volume.items():
            if key not in _NO_MOUNT and source:
                found += _mounted(key, source, str(volume.get("name")))
    for volume in run_task.get("volumeConfigurations") or ():
        disk = volume.get("managedEBSVolume") or {}
        found += [f"ebs:{disk[key]}" for key in ("snapshotId",) if disk.get(key)]  # an empty one shows nothing
    return tuple(sorted(found))


_NO_MOUNT = ("name", "host", "configuredAtLaunch")


def _mounted(kind: str, source: Mapping[str, Any], name: str) -> list[str]:
    if kind == "efsVolumeConfiguration":
        return [f"efs:{source.get('fileSystemId')}"]
    if kind == "fsxWindowsFileServerVolumeConfiguration":
        return [f"fsx:{source.get('fileSystemId')}"]
    if kind == "dockerVolumeConfiguration":  # with options, Docker's own driver mounts any folder of the host
        device = (source.get("driverOpts") or {}).get("device")
        return [f"volume:{name}", *([str(device)] if device else [])]
    return [f"{kind}:{name}"]


def privileges_in(definition: Mapping[str, Any], *, fargate: bool) -> tuple[str, ...]:
    """Names the rights that a definition asks for beyond those of an ordinary container.

    Args:
        definition: The definition.
        fargate: True where the task has an address of its own: its ports are nobody else's then.
    """
    words = set()
    shares_ports = not fargate and definition.get("networkMode") != "awsvpc"
    for container in definition.get("containerDefinitions") or ():
        linux = container.get("linuxParameters") or {}
        if container.get("privileged"):
            words.add("privileged")
        words |= {f"cap_add {one}" for one in (linux.get("capabilities") or {}).get("add") or ()}
        if linux.get("devices"):
            words.add("devices")
        if container.get("dockerSecurityOptions"):
            words.add("security_opt")
        if shares_ports and container.get("portMappings"):
            words.add("host port")  # ECS chooses one where none is named
    for key, value, word in (
        ("networkMode", "host", "host network"),
        ("pidMode", "host", "host processes"),
        ("ipcMode", "host", "host memory"),
    ):
        if definition.get(key) == value:
            words.add(word)
    return tuple(sorted(words))


def identities_in(*documents: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the roles that options, a definition or arguments of `RunTask` ask for."""
    names = ("task_role_arn", "execution_role_arn", "taskRoleArn", "executionRoleArn")
    return tuple(sorted({*_values(documents, names), *_roles_of_disks(documents)}))


def sizes_in(definition: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the CPU units and MiB that the containers of a task without a size of its own ask for, added up."""
    containers = {str(one.get("name")): dict(one) for one in definition.get("containerDefinitions") or ()}
    for one in overrides.get("containerOverrides") or ():
        containers.setdefault(str(one.get("name")), {}).update(one)
    units = sum(int(one.get("cpu") or 0) for one in containers.values())
    return units, sum(int(one.get("memory") or one.get("memoryReservation") or 0) for one in containers.values())


def _values(documents: Iterable[Mapping[str, Any]], names: tuple[str, ...]) -> Iterable[str]:
    for document in documents:
        for level in (document, document.get("overrides") or {}):
            yield from (str(level[name]) for name in names if level.get(name))


def _roles_of_disks(documents: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for document in documents:
        for volume in document.get("volumeConfigurations") or ():
            yield from (str(one["roleArn"]) for one in volume.values() if isinstance(one, Mapping) and "roleArn" in one)
