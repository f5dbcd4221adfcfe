"""Heliograph: a workflow orchestrator whose control plane never sees your data.

`import heliograph` gives the names that authors use. Each is loaded at its first use, so that importing the package
costs little and needs nothing that is heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Not lazy: `heliograph.context` is also the name of the module, which would otherwise be found instead of the object.
from heliograph.context import context

if TYPE_CHECKING:
    from heliograph import config as config
    from heliograph import triggers as triggers
    from heliograph.client import Client as Client
    from heliograph.core import DateTimeParameter as DateTimeParameter
    from heliograph.core import Edge as Edge
    from heliograph.core import Flow as Flow
    from heliograph.core import Parameter as Parameter
    from heliograph.core import Task as Task
    from heliograph.tasks.control_flow import FilterTask as FilterTask
    from heliograph.tasks.control_flow import ifelse as ifelse
    from heliograph.tasks.control_flow import merge as merge
    from heliograph.tasks.control_flow import switch as switch
    from heliograph.tasks.control_flow.case import case as case
    from heliograph.utilities.edges import flatten as flatten
    from heliograph.utilities.edges import mapped as mapped
    from heliograph.utilities.edges import unmapped as unmapped
    from heliograph.utilities.mapping import apply_map as apply_map
    from heliograph.utilities.tasks import tags as tags
    from heliograph.utilities.tasks import task as task

_HOMES = {
    "Client": "heliograph.client",
    "DateTimeParameter": "heliograph.core",
    "Edge": "heliograph.core",
    "FilterTask": "heliograph.tasks.control_flow",
    "Flow": "heliograph.core",
    "Parameter": "heliograph.core",
    "Task": "heliograph.core",
    "apply_map": "heliograph.utilities.mapping",
    "case": "heliograph.tasks.control_flow",
    "flatten": "heliograph.utilities.edges",
    "ifelse": "heliograph.tasks.control_flow",
    "mapped": "heliograph.utilities.edges",
    "merge": "heliograph.tasks.control_flow",
    "switch": "heliograph.tasks.control_flow",
    "tags": "heliograph.utilities.tasks",
    "task": "heliograph.utilities.tasks",
    "unmapped": "heliograph.utilities.edges",
}
"""Name to the module that defines it."""

_MODULES = frozenset({"config", "core", "engine", "schedules", "tasks", "triggers", "utilities"})

__version__ = "0.1.0"

__all__ = [
    "Client",
    "DateTimeParameter",
    "Edge",
    "FilterTask",
    "Flow",
    "Parameter",
    "Task",
    "apply_map",
    "case",
    "config",
    "context",
    "flatten",
    "ifelse",
    "mapped",
    "merge",
    "switch",
    "tags",
    "task",
    "triggers",
    "unmapped",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
