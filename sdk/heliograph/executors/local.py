"""The executor that runs one task at a time, in the calling thread."""

from __future__ import annotations

from heliograph.executors.base import Executor


class LocalExecutor(Executor):
    """Runs one task at a time, in the thread that runs the flow: what flows use by default."""
