"""`set_temporary_config` under the path that Prefect 1 gave it. Settings live in `heliograph.config`."""

from __future__ import annotations

from heliograph.config import set_temporary_config

__all__ = ["set_temporary_config"]
