"""`get_logger` under the path that Prefect 1 gave it. The loggers live in `heliograph.logging`."""

from __future__ import annotations

from heliograph.logging import get_logger

__all__ = ["get_logger"]
