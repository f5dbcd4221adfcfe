"""What the owner of a local agent sets for all of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heliograph_agents.control_groups import Limits

if TYPE_CHECKING:
    from heliograph_agents.launchers.local.environments import Environment

CRASH_LINES = 200
KEEP_FAILED = 50
KEEP_HOURS = 7 * 24.0
KEEP_SIZE = "1g"


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """The agent's own settings.

    Attributes:
        environments: The Python environments that runs may ask for, by name.
        limits: The most that runs may take that say nothing themselves.
        crash_lines: Lines of what a run left that go into the agent's log when it died before it was heard of.
        keep_failed: How many run directories of failed runs are kept.
        keep_seconds: How long any run directory is kept.
        keep_bytes: How large those that are kept may be together.
        idle_seconds: How long nobody asks for another environment until its warm parent is ended.
    """

    environments: Mapping[str, Environment] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    crash_lines: int = CRASH_LINES
    keep_failed: int = KEEP_FAILED
    keep_seconds: float = KEEP_HOURS * 3600
    keep_bytes: int = 2**30
    idle_seconds: float = 600.0
