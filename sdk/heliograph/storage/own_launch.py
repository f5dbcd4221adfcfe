"""Launch settings that an agent's owner keeps on the agent: `$HELIOGRAPH_HOME/launch/<project>/<flow>.toml`.

Storage that holds no files, such as a Git repository, has no place for values. They are written here instead:

    working_dir = "/srv/flows"
    [env]
    API_KEY = "…"
    [ledger]
    kind = "s3"
    bucket = "ledgers"
    prefix = "prod"
    [options]              # the launcher's own
    networks = ["backend"]

The file adds to what was registered, of any storage, and wins over it. Nothing of it crosses the line.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from heliograph.config import home
from heliograph.exceptions import LaunchSettingsError
from heliograph.storage.launch import LaunchSettings

__all__ = ["complete", "own_launch_path", "own_launch_text", "public_part", "to_be_given"]

_KEYS = frozenset({"env", "ledger", "options", "working_dir"})


def own_launch_path(project: str, flow: str) -> Path:
    """Returns the file of a flow. Letters that a file's name cannot have are written as in addresses, `%2F`."""
    return home() / "launch" / _file_name(project) / f"{_file_name(flow)}.toml"


def own_launch_text(project: str, flow: str) -> str:
    """Returns what the file of a flow says; nothing when there is none.

    Raises:
        LaunchSettingsError: If it cannot be read, or others can write it.
    """
    path = own_launch_path(project, flow)
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise LaunchSettingsError(f"{path} can be written by others", hint=f"chmod 600 {path}")
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchSettingsError(f"{path} cannot be read: {type(error).__name__}") from error


def to_be_given(settings: LaunchSettings) -> tuple[str, ...]:
    """Returns the names of what the settings have and nobody but the user may know."""
    names = [f"env.{name}" for name in settings.env] + [f"options.{name}" for name in settings.options]
    names += ["working_dir"] if settings.working_dir else []
    # A ledger at its default place is nobody's secret.
    names += ["ledger"] if any(value for name, value in settings.ledger.items() if name != "kind") else []
    return tuple(sorted(names))


def public_part(settings: LaunchSettings, storage: str, launch: str) -> LaunchSettings:
    """Returns what a location may say of launch settings.

    Args:
        settings: The settings.
        storage: The storage, for messages.
        launch: `agent` when agents' own files give the rest.

    Raises:
        LaunchSettingsError: There is more, and nobody gives it.
    """
    private = to_be_given(settings)
    if private and launch != "agent":
        raise LaunchSettingsError(
            f"{storage} storage holds no files, so it has no place for the flow's {', '.join(private)}",
            hint="Give the storage launch='agent' and write them to launch/<project>/<flow>.toml in the agents'"
            " home; or use storage that holds files, such as S3. (Sealed launch settings do not exist yet.)",
        )
    ledger = {"kind": "local", "dir": ""}
    return replace(settings, env={}, options={}, working_dir="", ledger=ledger, from_agent=private, salt="")


def complete(settings: LaunchSettings, text: str, place: str) -> LaunchSettings:
    """Returns the settings with what the agent's own file says.

    Args:
        settings: As they were registered.
        text: What the file says.
        place: The file, for messages.

    Raises:
        LaunchSettingsError: If the file is malformed, or lacks what was left to it. Values are not repeated.
    """
    given = _parse(text, place) if text else {}
    settings = replace(
        settings,
        env={**settings.env, **given.get("env", {})},
        options={**settings.options, **given.get("options", {})},
        working_dir=given.get("working_dir", settings.working_dir),
        ledger=given.get("ledger", settings.ledger),
    )
    known = {f"{table}.{name}" for table in ("env", "options") for name in given.get(table, ())} | given.keys()
    missing = [name for name in settings.from_agent if name not in known]
    if missing:
        raise LaunchSettingsError(
            f"the flow leaves {', '.join(missing)} to the agent's own launch settings, which do not say",
            hint=f"Write {'it' if len(missing) == 1 else 'them'} to {place} on the agent.",
        )
    return settings


def _parse(text: str, place: str) -> Mapping[str, Any]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise LaunchSettingsError(f"{place} is not TOML") from None  # the parser's message may quote a value
    unknown = sorted(document.keys() - _KEYS)
    if unknown:
        raise LaunchSettingsError(f"{place}: {', '.join(unknown)} is not known; known: {', '.join(sorted(_KEYS))}")
    for name in ("env", "ledger", "options"):
        table = document.get(name, {})
        if not isinstance(table, dict):
            raise LaunchSettingsError(f"{place}: {name} is a table")
        if name != "options" and not all(isinstance(value, str) for value in table.values()):
            raise LaunchSettingsError(f"{place}: {name} holds texts")
    if not isinstance(document.get("working_dir", ""), str):
        raise LaunchSettingsError(f"{place}: working_dir is a text")
    return document


def _file_name(name: str) -> str:
    text = quote(name, safe=" ")
    return f"%2E{text[1:]}" if text.startswith(".") else text
