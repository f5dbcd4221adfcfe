"""The rights of an agent in a cluster: all that it needs and nothing else, a Role for each namespace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

RULES: list[dict[str, Any]] = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "list", "watch", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "delete"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "delete"]},
]
"""What it cannot do without. It can read no Secret, not even its own."""

OPTIONAL_RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]
"""What it tells more with: why a pod is not made, and what a pod printed that died without a word."""


def manifests(namespaces: Sequence[str], account: str, account_namespace: str, *, least: bool) -> list[dict[str, Any]]:
    """Returns the objects to apply: the agent's service account, and for each namespace a Role and its binding.

    Args:
        namespaces: Where its Jobs may be.
        account: Name of the agent's service account.
        account_namespace: Where that is.
        least: True to leave out what is optional.
    """
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": account_namespace}}
    ]
    rules = RULES if least else [*RULES, *OPTIONAL_RULES]
    for namespace in namespaces:
        meta = {"name": account, "namespace": namespace}
        found += [
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules},
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            },
        ]
    return found


def as_yaml(objects: Sequence[dict[str, Any]]) -> str:
    """Returns objects as `kubectl apply -f -` takes them. JSON is YAML: it needs no package."""
    try:
        import yaml
    except ImportError:
        return "\n---\n".join(json.dumps(one, indent=2) for one in objects) + "\n"
    return str(yaml.dump_all(objects, Dumper=_dumper(yaml), sort_keys=False))


def _dumper(yaml: Any) -> Any:
    class Plain(yaml.SafeDumper):  # type: ignore[misc] # the package is imported late
        """Writes what is there twice out twice."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            """Always."""
            return True

    return Plain
