"""What a Job must be for a cluster to take it. Only what is surely wrong is refused: newer servers know more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from heliograph.utilities.quantities import parse_quantity

_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_IMAGE = re.compile(r"[^\s]+")


class ManifestError(ValueError):
    """A Job that cannot be, or would not be what it must be."""


def check(job: Mapping[str, Any]) -> None:
    """Looks a Job over.

    Raises:
        ManifestError: A part of it cannot be, with the place where it is.
    """
    for place, meta in (("metadata", job["metadata"]), ("spec.template.metadata", job["spec"]["template"]["metadata"])):
        for key, value in meta["labels"].items():
            if not isinstance(value, str) or not _VALUE.fullmatch(value):
                raise ManifestError(
                    f"{place}.labels: {key}={value!r} is no label: at most 63 letters, digits, -, _ and ."
                )
        for key, value in meta["annotations"].items():
            if not isinstance(value, str):
                raise ManifestError(f"{place}.annotations: the value of {key} is no text")
    pod = job["spec"]["template"]["spec"]
    volumes = _check_volumes(pod)
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for container in _list(pod, field, "spec.template.spec"):
            name = container.get("name")
            place = f"{field}[{name}]"
            if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):
                raise ManifestError(f"{field}: {name!r} is no name: lower-case letters, digits and -")
            if name in seen:
                raise ManifestError(f"two containers are named {name}")
            seen.add(name)
            _check_container(container, place, volumes)


def _check_volumes(pod: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for volume in _list(pod, "volumes", "spec.template.spec"):
        name = volume.get("name")
        if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):
            raise ManifestError(f"volumes: {name!r} is no name")
        if name in found:
            raise ManifestError(f"two volumes are named {name}")
        found.add(name)
    return found


def _check_container(container: Mapping[str, Any], place: str, volumes: set[str]) -> None:
    image = container.get("image")
    if not image:
        raise ManifestError(f"{place} names no image" + (
            ": the flow names none, its template names none, and this agent has no --image"
            if place == "containers[flow]" else ""
        ))  # fmt: skip
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        raise ManifestError(f"{place}: {image!r} is no image")
    for variable in _list(container, "env", place):
        name = variable.get("name")
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ManifestError(f"{place}.env: {name!r} is no name of a variable")
        if not isinstance(variable.get("value", ""), str):
            raise ManifestError(f"{place}.env: the value of {name} is no text; write it in quotes")
    _list(container, "envFrom", place)
    _check_mounts(container, place, volumes)
    _check_resources(container, place)


def _check_mounts(container: Mapping[str, Any], place: str, volumes: set[str]) -> None:
    paths: set[str] = set()
    for mount in _list(container, "volumeMounts", place):
        path = mount.get("mountPath")
        if not isinstance(path, str) or not path:
            raise ManifestError(f"{place}.volumeMounts: one has no mountPath")
        if mount.get("name") not in volumes:
            raise ManifestError(f"{place}.volumeMounts: there is no volume {mount.get('name')!r}")
        if path in paths:
            raise ManifestError(f"{place}.volumeMounts: two are at {path}")
        paths.add(path)


def _check_resources(container: Mapping[str, Any], place: str) -> None:
    resources = container.get("resources") or {}
    if not isinstance(resources, Mapping):
        raise ManifestError(f"{place}.resources is no mapping")
    for kind in ("limits", "requests"):
        table = resources.get(kind) or {}
        if not isinstance(table, Mapping):
            raise ManifestError(f"{place}.resources.{kind} is no mapping")
        for name, value in table.items():
            try:
                parse_quantity(value)
            except ValueError as error:
                raise ManifestError(f"{place}.resources.{kind}.{name}: {error}") from None


def _list(parent: Mapping[str, Any], field: str, place: str) -> list[Mapping[str, Any]]:
    found = parent.get(field) or []
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise ManifestError(f"{place}.{field} is no list of mappings")
    return found
