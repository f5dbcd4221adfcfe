"""The base of run configs, and the one that every agent accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from heliograph.storage.launch import LaunchSettings

__all__ = ["RunConfig", "UniversalRun"]


class RunConfig:
    """What a flow asks of the agent that runs it. Values of `env` stay on the user's side; only names are told.

    Args:
        env: Environment variables of the run; they win over the agent's.
        labels: Labels that an agent must offer, all of them.

    Raises:
        TypeError: If `env` is no mapping from text to text, or `labels` is one text.
    """

    launcher: ClassVar[str] = ""

    def __init__(self, env: Mapping[str, str] | None = None, labels: Iterable[str] | None = None) -> None:
        given: Mapping[Any, Any] = env or {}
        for name, value in given.items():
            if (
                not isinstance(name, str)
                or not isinstance(value, str)
                or not name
                or "=" in name
                or "\0" in name + value
            ):
                raise TypeError(
                    f"env takes names and texts; {name!r} is not one, or its value is {type(value).__name__}"
                )
        if isinstance(labels, str):
            raise TypeError(f"labels takes several texts, like [{labels!r}]")
        self.env = dict(env or {})
        self.labels = frozenset(labels or ())

    def launch_settings(self) -> LaunchSettings:
        """Returns the settings that the agent reads."""
        return LaunchSettings(labels=tuple(sorted(self.labels)), launcher=self.launcher, env=self.env)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), self.labels))

    def __repr__(self) -> str:
        shown: dict[str, Any] = {**self.__dict__, "env": sorted(self.env), "labels": sorted(self.labels)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items() if value)})"


class UniversalRun(RunConfig):
    """Environment and labels only: every kind of agent accepts it."""
