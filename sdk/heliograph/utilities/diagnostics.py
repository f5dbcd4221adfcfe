"""What to send with a question: versions, settings that differ and features of a flow, without any value."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

_DISTRIBUTIONS = ("heliograph", "grpcio", "protobuf", "cloudpickle", "croniter")


def diagnostic_info(flow: Flow | None = None, *, include_secret_names: bool = False) -> str:
    """Returns the facts as JSON text.

    Args:
        flow: A flow, whose features are added: numbers and class names, no names of its own.
        include_secret_names: True to list which secrets are set in the environment; never their values.
    """
    info: dict[str, Any] = {
        "system": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in _DISTRIBUTIONS},
        },
        "settings": _settings(),
    }
    if include_secret_names:
        info["secrets"] = _secret_names()
    if flow is not None:
        info["flow"] = _features(flow)
    return json.dumps(info, indent=2, sort_keys=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _settings() -> dict[str, str]:
    """Returns which settings are not at their default, and where each comes from."""
    from heliograph.config import origins

    return {name: origin for name, origin in origins().items() if origin != "default"}


def _secret_names() -> list[str]:
    import os

    prefix = "HELIOGRAPH__SECRETS__"
    return sorted(name.removeprefix(prefix) for name in os.environ if name.startswith(prefix))


def _features(flow: Flow) -> dict[str, Any]:
    from heliograph.core.description import class_path

    def kind(value: Any) -> str | None:
        return None if value is None else class_path(value)

    return {
        "tasks": len(flow.tasks),
        "edges": len(flow.edges),
        "mapped_tasks": len({edge.downstream_task for edge in flow.edges if edge.mapped}),
        "parameters": len(flow.parameters()),
        "reference_tasks": len(flow.reference_tasks()),
        "task_classes": sorted({class_path(task) for task in flow.tasks}),
        "schedule": None if flow.schedule is None else [class_path(clock) for clock in flow.schedule.clocks],
        "executor": kind(flow.executor),
        "result": kind(flow.result),
        "storage": kind(flow.storage),
        "run_config": kind(flow.run_config),
        "state_handlers": len(flow.state_handlers),
    }
