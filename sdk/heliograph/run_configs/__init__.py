"""Run configs: what a flow asks of the agent that runs it."""

from __future__ import annotations

from typing import Any

from heliograph.run_configs.base import RunConfig, UniversalRun
from heliograph.run_configs.docker import DockerRun
from heliograph.run_configs.ecs import ECSRun
from heliograph.run_configs.kubernetes import KubernetesRun
from heliograph.run_configs.local import LocalRun

__all__ = ["DockerRun", "ECSRun", "KubernetesRun", "LocalRun", "RunConfig", "UniversalRun"]


def __getattr__(name: str) -> Any:
    if name == "VertexRun":
        raise ImportError("there is no VertexRun here: use KubernetesRun, DockerRun or ECSRun", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
