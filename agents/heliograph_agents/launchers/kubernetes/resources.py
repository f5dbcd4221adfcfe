"""What the containers of a pod may take of its node, and how the flow's is held to what the agent's policy has left.

A pod takes what its containers take together; before they begin, what the largest of its init containers takes. An
init container that goes on beside the others (`restartPolicy: Always`) counts among them, and beside those after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from heliograph.utilities.quantities import parse_quantity
from heliograph_agents.most import Most


def containers_of(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns all containers of a pod."""
    return [*(pod.get("initContainers") or ()), *(pod.get("containers") or ())]


def limit_of(container: Mapping[str, Any], unit: str) -> Decimal | None:
    """Returns a container's limit; None when it has none. Zero is none, as Kubernetes has it."""
    found = ((container.get("resources") or {}).get("limits") or {}).get(unit)
    return (parse_quantity(found) if found else None) or None


def total(pod: Mapping[str, Any], unit: str, *, without: Mapping[str, Any] | None = None) -> Decimal:
    """Returns what a pod may take at most: its containers' limits, or what they ask for where that is more.

    Args:
        pod: The pod's spec.
        unit: `cpu` or `memory`.
        without: A container that is not counted.
    """
    beside, most = Decimal(0), Decimal(0)
    for one in pod.get("initContainers") or ():
        if one is without:
            continue
        most = max(most, beside + _takes(one, unit))
        if one.get("restartPolicy") == "Always":
            beside += _takes(one, unit)
    at_once = sum(_takes(one, unit) for one in pod.get("containers") or () if one is not without)
    return max(most, beside + at_once, _takes(pod, unit))


def hold(pod: Mapping[str, Any], flow: dict[str, Any], most: Most) -> None:
    """Gives the flow's container the limit that the policy leaves it beside the others, where it has none.

    It asks for no more than it did: what a container asks for, its node keeps free for it.
    """
    for unit, maximum in (("cpu", Decimal(most.cpu_millis) / 1000), ("memory", Decimal(most.memory_bytes))):
        if not maximum or limit_of(flow, unit) is not None:
            continue
        others = {"containers": pod["containers"], "initContainers": [
            one for one in pod.get("initContainers") or () if one.get("restartPolicy") == "Always"
        ]}  # fmt: skip
        left = maximum - total(others, unit, without=flow)
        if left < (Decimal("0.001") if unit == "cpu" else 1):
            continue  # nothing is left to give, and the policy says so
        resources = flow["resources"] = {**(flow.get("resources") or {})}
        resources["limits"] = {
            **(resources.get("limits") or {}), unit: f"{int(left * 1000)}m" if unit == "cpu" else str(int(left))
        }  # fmt: skip
        resources["requests"] = {unit: "0", **(resources.get("requests") or {})}


def _takes(container: Mapping[str, Any], unit: str) -> Decimal:
    asked = ((container.get("resources") or {}).get("requests") or {}).get(unit)
    return max(limit_of(container, unit) or Decimal(0), parse_quantity(asked) if asked else Decimal(0))
