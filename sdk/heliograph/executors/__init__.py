"""Executors: where a flow's tasks run."""

from heliograph.executors.base import Executor
from heliograph.executors.local import LocalExecutor
from heliograph.executors.threads import LocalDaskExecutor, ThreadsExecutor

__all__ = ["Executor", "LocalDaskExecutor", "LocalExecutor", "ThreadsExecutor"]
