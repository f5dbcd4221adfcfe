"""What all secret tasks share."""

from __future__ import annotations

from typing import Any

from heliograph.core.task import Task
from heliograph.engine.results.secret_result import SecretResult


class SecretBase(Task):
    """A task whose result is a secret. It is never written as a result; a restarted run asks for it again.

    Args:
        secret_name: Name of the secret.
        **kwargs: The options of `Task`; `name` is the secret's name by default.

    Raises:
        ValueError: A result or a checkpoint was asked for.
    """

    def __init__(self, secret_name: str | None = None, **kwargs: Any) -> None:
        if kwargs.get("result") is not None or kwargs.get("checkpoint"):
            raise ValueError("a secret is never stored, so its task takes no result and no checkpoint")
        self.secret_name = secret_name
        kwargs.setdefault("name", secret_name)
        kwargs["checkpoint"] = False
        kwargs["result"] = SecretResult(self)
        super().__init__(**kwargs)

    def _name(self, name: str | None) -> str:
        if not (found := name or self.secret_name):
            raise ValueError("a secret needs a name, in the constructor or in the call")
        return found
