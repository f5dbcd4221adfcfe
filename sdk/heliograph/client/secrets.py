"""Secrets, found on the user's side only: the control plane has no place for them.

A name is looked up in

1. `heliograph.context.secrets`, for tests,
2. the environment, `HELIOGRAPH__SECRETS__NAME`,
3. the file `$HELIOGRAPH_HOME/secrets/NAME`, such as a mounted secret,
4. the table of `$HELIOGRAPH_HOME/secrets.toml`,
5. the stores of the setting `storage.secret_stores`: AWS Secrets Manager, AWS Parameter Store, Vault, Kubernetes.

Text that is JSON is parsed, anything else stays text. Whatever is found is taken out of log lines from then on.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from heliograph.config import config, home
from heliograph.context import context
from heliograph.exceptions import ConfigurationError, InvalidArgumentError, SecretNotFoundError
from heliograph.logging.scrubber import remember

__all__ = ["ENV_PREFIX", "Secret"]

ENV_PREFIX = "HELIOGRAPH__SECRETS__"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_ABSENT = object()


class Secret:
    """A secret by name.

    Args:
        name: Letters, digits, `_`, `.` and `-`; the same in every source.

    Raises:
        InvalidArgumentError: If the name has other characters.
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError(f"{name!r} is no name of a secret: letters, digits, _, . and - are allowed")
        self.name = name

    def get(self) -> Any:
        """Returns the value.

        Raises:
            SecretNotFoundError: If no source has it.
            ConfigurationError: If a file can be written by others, or cannot be read; or while a flow is being built:
                the value would become part of the flow.
        """
        if context.get("flow") is not None:
            raise ConfigurationError(
                f"the secret {self.name!r} was asked for while a flow is being built",
                hint="Ask for it inside a task, or use a PrefectSecret task.",
            )
        value = self._find()
        if value is _ABSENT:
            raise SecretNotFoundError(
                f"there is no secret {self.name!r}; looked in context.secrets, {ENV_PREFIX}{self.name}, "
                f"{home() / 'secrets' / self.name}, {home() / 'secrets.toml'} and the stores of storage.secret_stores: "
                f"{', '.join(config().storage.secret_stores) or 'none'}",
                hint=f"Set the variable {ENV_PREFIX}{self.name} for the agent, or write the file.",
            )
        return value

    def exists(self) -> bool:
        """Returns True when a source has it."""
        return self._find() is not _ABSENT

    def _find(self) -> Any:
        local = context.get("secrets") or {}
        if self.name in local:
            value = local[self.name]
        else:
            value = self._from_environment()
            if value is _ABSENT:
                value = self._from_files()
            if value is _ABSENT:
                value = self._from_stores()
        if value is _ABSENT:
            return _ABSENT
        remember(value)
        parsed = _parsed(value)
        remember(parsed)
        return parsed

    def _from_environment(self) -> Any:
        for name in (self.name, self.name.upper()):
            value = os.environ.get(ENV_PREFIX + name)
            if value is not None:
                return value
        return _ABSENT

    def _from_files(self) -> Any:
        path = home() / "secrets" / self.name
        if path.is_file():
            text = _read(path)
            return text.removesuffix("\n").removesuffix("\r")
        table = home() / "secrets.toml"
        if table.is_file():
            try:
                return tomllib.loads(_read(table)).get(self.name, _ABSENT)
            except tomllib.TOMLDecodeError:
                # The parser's message quotes the line: it may hold a secret.
                raise ConfigurationError(f"{table} is not TOML") from None
        return _ABSENT

    def _from_stores(self) -> Any:
        stores = config().storage.secret_stores
        if not stores:
            return _ABSENT
        from heliograph.client.secret_stores import find_in_stores

        found = find_in_stores(stores, self.name)
        return _ABSENT if found is None else found

    def __repr__(self) -> str:
        return f"<Secret: {self.name}>"


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(f"{path} can be written by others", hint=f"chmod 600 {path}")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from error


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
