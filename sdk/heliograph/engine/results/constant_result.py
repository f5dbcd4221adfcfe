"""Results that are never written because their value is part of the flow."""

# ruff: noqa: ARG002 (one interface for all kinds; not each needs every argument)

from __future__ import annotations

from typing import Any

from heliograph.engine.result import Result
from heliograph.exceptions import ResultStoreError

__all__ = ["ConstantResult"]


class ConstantResult(Result):
    """A constant of the flow's own code: reading gives its value, writing is a mistake."""

    def __init__(self, value: Any = None) -> None:
        super().__init__(value)

    def read(self, location: str) -> Result:
        """Returns this result: the value is here."""
        return self

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Raises: a constant is part of the code.

        Raises:
            ResultStoreError: Always.
        """
        raise ResultStoreError("a constant is part of the flow's code and cannot be written")

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True."""
        return True
