"""Which agent can take which run: labels, launcher, host, project."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Match:
    """What an agent lacks for a run; it fits when that is nothing."""

    missing_labels: tuple[str, ...] = ()
    wrong_host: bool = False
    wrong_launcher: bool = False
    wrong_project: bool = False

    @property
    def fits(self) -> bool:
        """True when nothing is lacking."""
        return not (self.missing_labels or self.wrong_host or self.wrong_launcher or self.wrong_project)


def match(
    *,
    required_labels: Collection[str],
    required_launcher: str,
    required_host: str,
    project: str,
    labels: Collection[str],
    launcher: str,
    host: str,
    projects: Collection[str] | None = None,
) -> Match:
    """Compares what a run needs with what an agent offers.

    Args:
        required_labels: All of these the agent must have; it may have more.
        required_launcher: Kind of launcher; empty means any.
        required_host: Host that has the bundle on its disk; empty means any.
        project: The run's project.
        labels: The agent's.
        launcher: The agent's.
        host: The agent's; empty when it shares no disk.
        projects: Projects that the agent works for; None means all.
    """
    return Match(
        missing_labels=tuple(sorted(set(required_labels) - set(labels))),
        wrong_host=bool(required_host) and required_host != host,
        wrong_launcher=bool(required_launcher) and required_launcher != launcher,
        wrong_project=projects is not None and project not in projects,
    )
