"""A flow described by plain values: for its hash and its diagnostics. No code, no result, no value of a parameter."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliograph.core.flow import Flow
    from heliograph.core.task import Task


def describe(flow: Flow) -> dict[str, Any]:
    """Returns what is declared about a flow, in an order that depends on nothing else."""
    return {
        "name": flow.name,
        "tasks": sorted((_describe_task(flow, task) for task in flow.tasks), key=lambda item: item["slug"]),
        "edges": sorted(
            [
                flow.slugs[edge.upstream_task],
                flow.slugs[edge.downstream_task],
                edge.key or "",
                edge.mapped,
                edge.flattened,
            ]
            for edge in flow.edges
        ),
        "parameters": sorted([parameter.name, parameter.required] for parameter in flow.parameters()),
        "reference_tasks": sorted(flow.slugs[task] for task in flow.reference_tasks()),
        "schedule": _describe_schedule(flow),
    }


def serialized_hash(flow: Flow) -> str:
    """Returns `sha256:` and the digest of the description."""
    text = json.dumps(describe(flow), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _describe_task(flow: Flow, task: Task) -> dict[str, Any]:
    return {
        "slug": flow.slugs[task],
        "name": task.name,
        "class": class_path(task),
        "tags": sorted(task.tags),
        "max_retries": task.max_retries,
        "retry_delay": _seconds(task.retry_delay),
        "retry_on": sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in task.retry_on or ()),
        "timeout": task.timeout,
        "trigger": getattr(task.trigger, "__qualname__", type(task.trigger).__qualname__),
        "skip_on_upstream_skip": task.skip_on_upstream_skip,
        "cache_for": _seconds(task.cache_for),
        "cache_key": task.cache_key,
        "checkpoint": task.checkpoint,
        "log_stdout": task.log_stdout,
        "result": None if task.result is None else class_path(task.result),
        "target": task.target if isinstance(task.target, str) else callable(task.target),
        "nout": task.nout,
        "constants": sorted(flow.constants.get(task, ())),
    }


def _describe_schedule(flow: Flow) -> list[str] | None:
    if flow.schedule is None:
        return None
    from heliograph.schedules.expansion import clock_key

    # Defaults enter by a digest only, of text that is stable for plain values.
    return sorted(
        clock_key(clock.spec, json.dumps(clock.parameter_defaults or {}, default=class_path), clock.labels)
        for clock in flow.schedule.clocks
    )


def class_path(value: Any) -> str:
    """Returns the dotted path of an object's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()
