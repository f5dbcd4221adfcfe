"""Arguments of Prefect 1's storages that mean nothing here, or something else: accepted, or refused with the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heliograph.exceptions import InvalidArgumentError

__all__ = ["accept_common", "pickled", "prefix_of"]

_DEFAULT_PREFIX = "heliograph"

_HARMLESS = frozenset({"flow_name", "clone_depth", "format_access_token", "validate", "local_script_path"})
_WAYS = {
    "labels": "labels belong to the run config: UniversalRun(labels=[…])",
    "add_default_labels": "there are no hidden labels; Local storage says its host by itself",
    "result": "give the flow its result: Flow(…, result=…)",
    "secrets": "secrets are found when a task asks for them: Secret('NAME').get() or PrefectSecret",
    "connection_string": "keep it as a secret, and give the secret's name: connection_string_secret=",
    "git_clone_url_secret_name": "give repo= without a token, and the token by git_token_secret_name=",
}


def accept_common(storage: str, given: Mapping[str, Any], *, scripts_only: bool = False) -> None:
    """Looks at what Prefect 1's class takes besides its own arguments.

    Args:
        storage: Name of the class.
        given: The arguments.
        scripts_only: True for storage that holds no pickles.

    Raises:
        InvalidArgumentError: If one asks for what is done in another way here; the message says which.
        TypeError: If one is not known.
    """
    for name, value in given.items():
        if name in _HARMLESS or value is None:
            continue
        if name == "stored_as_script":
            if scripts_only and not value:
                raise InvalidArgumentError(f"{storage}: stored_as_script=False: a repository holds no pickles")
        elif name in _WAYS:
            if name == "add_default_labels" and not value:
                continue
            if value in ([], (), {}, set()):
                continue
            shown = "…" if name == "connection_string" else repr(value)
            raise InvalidArgumentError(f"{storage}: {name}={shown}: {_WAYS[name]}")
        else:
            raise TypeError(f"{storage}() got an unexpected keyword argument {name!r}")


def pickled(storage: str, stored_as_script: bool | None, pickle: bool) -> bool:
    """Returns whether a pickle is loaded: Prefect 1 says it by `stored_as_script`, whose default here is a script.

    Raises:
        InvalidArgumentError: The two contradict each other.
    """
    if stored_as_script and pickle:
        raise InvalidArgumentError(f"{storage}: stored_as_script=True and pickle=True contradict each other")
    return pickle or stored_as_script is False


def prefix_of(storage: str, prefix: str | None, name: str, given: str | None) -> str:
    """Returns the prefix of all keys: Prefect 1 says the place by a key of the one object that it wrote.

    Raises:
        InvalidArgumentError: Both are given.
    """
    if prefix is not None and given is not None:
        raise InvalidArgumentError(f"{storage}: {name} and prefix are the same: give one of them")
    return next((text for text in (prefix, given) if text is not None), _DEFAULT_PREFIX)
