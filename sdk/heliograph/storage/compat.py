"""Arguments of Prefect 1's storages that mean nothing here, or something else: accepted, or refused with the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heliograph.exceptions import InvalidArgumentError

__all__ = ["accept_common"]

_HARMLESS = frozenset({"flow_name", "clone_depth", "format_access_token", "validate", "local_script_path"})
_WAYS = {
    "labels": "labels belong to the run config: UniversalRun(labels=[…])",
    "add_default_labels": "there are no hidden labels; Local storage says its host by itself",
    "result": "give the flow its result: Flow(…, result=…)",
    "secrets": "secrets are found when a task asks for them: Secret('NAME').get() or PrefectSecret",
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
            raise InvalidArgumentError(f"{storage}: {name}={value!r}: {_WAYS[name]}")
        else:
            raise TypeError(f"{storage}() got an unexpected keyword argument {name!r}")
