"""Results of secret tasks: never kept; reading one asks the secret task again."""

# ruff: noqa: ARG002 (one interface for all kinds; not each needs every argument)

from __future__ import annotations

from typing import Any, Protocol

from heliograph.engine.result import Result
from heliograph.exceptions import ResultStoreError

__all__ = ["SecretResult"]


class _SecretTask(Protocol):
    def run(self, name: str) -> Any: ...


class SecretResult(Result):
    """A secret's value. Its location is the secret's name.

    Args:
        secret_task: The task that finds the secret; its `run` takes the name.
        name: Name of the secret; by default the task's attribute `secret_name`.
    """

    def __init__(self, secret_task: _SecretTask, name: str | None = None) -> None:
        super().__init__(location=name if name is not None else getattr(secret_task, "secret_name", None))
        self.secret_task = secret_task

    def read(self, location: str) -> Result:
        """Runs the secret task for the name `location`."""
        new = self.copy()
        new.value = self.secret_task.run(name=location)
        return new

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Raises: secrets are not written.

        Raises:
            ResultStoreError: Always.
        """
        raise ResultStoreError("a secret is never written as a result")

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True: whether there is a value is the secret task's to say."""
        return True

    def __repr__(self) -> str:
        return f"<SecretResult: {self.location!r}>"
