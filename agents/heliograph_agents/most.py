"""The most that one run may take, of the agent's policy: launchers make it the limit of runs that have none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Most:
    """What one run may take.

    Attributes:
        cpu_millis: Processor share; 0 means that there is no maximum.
        memory_bytes: Memory, with what is swapped out; 0 means that there is no maximum.
    """

    cpu_millis: int = 0
    memory_bytes: int = 0


BOUNDLESS = Most()
"""Where the policy has no maximum."""
