"""A secret in an environment variable."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from heliograph.exceptions import SecretNotFoundError
from heliograph.logging.scrubber import remember
from heliograph.tasks.secrets.base import SecretBase


class EnvVarSecret(SecretBase):
    """A task whose result is the value of an environment variable, read when it runs.

    Args:
        name: Name of the variable.
        cast: Function that makes the result of the text.
        raise_if_missing: True to fail when the variable is not set; else the result is None.
        **kwargs: The options of `Task`.
    """

    def __init__(
        self,
        name: str | None = None,
        cast: Callable[[str], Any] | None = None,
        raise_if_missing: bool = False,
        **kwargs: Any,
    ) -> None:
        self.cast = cast
        self.raise_if_missing = raise_if_missing
        super().__init__(name, **kwargs)

    def run(self, name: str | None = None) -> Any:
        """Returns the value.

        Args:
            name: Name of the variable; by default that of the constructor.

        Raises:
            ValueError: There is no name.
            SecretNotFoundError: It is not set, and `raise_if_missing` is true.
        """
        variable = self._name(name)
        value = os.environ.get(variable)
        if value is None:
            if self.raise_if_missing:
                raise SecretNotFoundError(f"the environment variable {variable} is not set")
            return None
        remember(value)
        return self.cast(value) if self.cast is not None else value
