"""The version of the installed distribution."""

from __future__ import annotations

from functools import cache


@cache
def version() -> str:
    """Returns the installed version of Heliograph, or `0+unknown` for a source tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("heliograph")
    except metadata.PackageNotFoundError:
        return "0+unknown"
