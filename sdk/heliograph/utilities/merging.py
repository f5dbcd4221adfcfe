"""Patches of manifests: strategic merge, where lists are merged by the name of what is in them, and JSON Patch.

Pure. The strategic merge is that of Kubernetes for what a pod template holds: containers, volumes, variables and the
like are found by their keys; `null` removes; `$patch: delete` removes from a list, `$patch: replace` replaces.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

KEYS = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "volumes": "name", "env": "name",
    "volumeMounts": "mountPath", "volumeDevices": "devicePath", "ports": "containerPort", "imagePullSecrets": "name",
    "hostAliases": "ip", "topologySpreadConstraints": "topologyKey", "resourceClaims": "name",
}  # fmt: skip
"""Lists that are merged, with the field by which an item is found; all others are replaced."""

_DIRECTIVE = "$patch"


class PatchError(ValueError):
    """A patch that does not fit what it is for."""


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a strategic merge makes of `base`, which stays as it is.

    Raises:
        PatchError: A list of things with names has one without.
    """
    directive = patch.get(_DIRECTIVE)
    rest = {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "replace":
        return copy.deepcopy(rest)
    if directive is not None:
        raise PatchError(f"$patch: {directive!r} is not possible here; replace is")
    made = copy.deepcopy(dict(base))
    for key, value in rest.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping):
            there = made.get(key)
            made[key] = merge(there if isinstance(there, Mapping) else {}, value)
        elif isinstance(value, list) and key in KEYS:
            there = made.get(key)
            made[key] = _merge_list(key, there if isinstance(there, list) else [], value)
        else:
            made[key] = copy.deepcopy(value)
    return made


def _merge_list(field: str, base: list[Any], patch: list[Any]) -> list[Any]:
    key = KEYS[field]
    if any(isinstance(item, Mapping) and item.get(_DIRECTIVE) == "replace" and key not in item for item in patch):
        return [copy.deepcopy(item) for item in patch if not (isinstance(item, Mapping) and _DIRECTIVE in item)]
    made = copy.deepcopy(base)
    for item in patch:
        if not isinstance(item, Mapping) or key not in item:
            raise PatchError(f"an item of {field} has no {key}, by which it would be found")
        at = next((n for n, one in enumerate(made) if isinstance(one, Mapping) and one.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            if at is not None:
                del made[at]
        elif at is None:
            made.append(merge({}, item))
        else:
            made[at] = merge(made[at], item)
    return made


def apply_json_patch(document: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what a JSON Patch (RFC 6902) makes of a document, which stays as it is.

    Raises:
        PatchError: An operation is none, does not fit, or its test fails.
    """
    root: Any = copy.deepcopy(dict(document))
    for operation in operations:
        try:
            root = _apply(root, operation)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, PatchError):
                raise
            raise PatchError(f"{dict(operation)!r} does not fit: {error}") from error
    if not isinstance(root, dict):
        raise PatchError("the patch leaves no object")
    return root


def _apply(root: Any, operation: Mapping[str, Any]) -> Any:
    kind, path = operation.get("op"), pointer(operation["path"])
    if kind == "test":
        if not _same(_find(root, path), operation["value"]):
            raise PatchError(f"the test of {operation['path']!r} fails")
        return root
    if kind == "remove":
        return _remove(root, path)
    if kind == "add":
        return _add(root, path, copy.deepcopy(operation["value"]))
    if kind == "replace":
        _find(root, path)
        return _add(_remove(root, path) if path else root, path, copy.deepcopy(operation["value"]))
    if kind in ("move", "copy"):
        source = pointer(operation["from"])
        if kind == "move" and path[: len(source)] == source and path != source:
            raise PatchError(f"{operation['from']!r} cannot be moved into itself")
        value = copy.deepcopy(_find(root, source))
        return _add(_remove(root, source) if kind == "move" else root, path, value)
    raise PatchError(f"{kind!r} is no operation; known: add, remove, replace, move, copy, test")


def pointer(text: str) -> list[str]:
    """Reads a JSON Pointer.

    Raises:
        PatchError: It is none.
    """
    if text == "":
        return []
    if not text.startswith("/"):
        raise PatchError(f"{text!r} is no path; it begins with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _same(one: Any, other: Any) -> bool:
    """Compares as JSON does, where true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _find(root: Any, path: list[str]) -> Any:
    for part in path:
        root = root[_index(root, part)] if isinstance(root, list) else root[part]
    return root


def _index(items: list[Any], part: str, *, end: bool = False) -> int:
    if part == "-" and end:
        return len(items)
    if not (part.isascii() and part.isdecimal()) or (part != "0" and part.startswith("0")):
        raise PatchError(f"{part!r} is no place in a list")
    if int(part) >= len(items) + end:
        raise PatchError(f"there is no place {part} in a list of {len(items)}")
    return int(part)


def _add(root: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _find(root, path[:-1])
    if isinstance(parent, list):
        parent.insert(_index(parent, path[-1], end=True), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise PatchError(f"nothing can be added below {path[-2]!r}" if len(path) > 1 else "nothing can be added")
    return root


def _remove(root: Any, path: list[str]) -> Any:
    if not path:
        raise PatchError("the whole document cannot be removed")
    parent = _find(root, path[:-1])
    if isinstance(parent, list):
        del parent[_index(parent, path[-1])]
    else:
        del parent[path[-1]]
    return root
