"""A secret from wherever secrets are kept on this side."""

from __future__ import annotations

from typing import Any

from heliograph.tasks.secrets.base import SecretBase


class Secret(SecretBase):
    """A task whose result is a secret by name: from the context, the environment or a file of this machine.

    Args:
        name: Name of the secret.
        **kwargs: The options of `Task`.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def run(self, name: str | None = None) -> Any:
        """Returns the secret.

        Args:
            name: Name of the secret; by default that of the constructor.

        Raises:
            ValueError: There is no name.
            SecretNotFoundError: No source on this side has it.
        """
        from heliograph.client.secrets import Secret as ClientSecret

        return ClientSecret(self._name(name)).get()
