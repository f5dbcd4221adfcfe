"""What the exit code of a container says that ended without a word of its supervisor: the same everywhere."""

from __future__ import annotations

import re
import signal

from heliograph.engine.codes import FailureCode
from heliograph_agents.container import EXIT_NO_OFFER, EXIT_STARTED_BEFORE, EXIT_SUPERVISOR_FAILED

START_FAILURES = (126, 127)


def signal_of(code: int) -> int | None:
    """Returns the signal that an exit code tells of; None when it tells of none."""
    return code - 128 if 128 < code < 128 + 65 else None


def why(code: int, printed: str) -> tuple[FailureCode, str]:
    """Returns the reason and a sentence.

    Args:
        code: The exit code.
        printed: The end of what the container printed; empty when that is not known.
    """
    number = signal_of(code)
    if number == signal.SIGKILL:
        return FailureCode.SIGNAL, "something killed its container: often lack of memory"
    if number is not None:
        return FailureCode.SIGNAL, f"signal {number} ended its container"
    if missing := re.search(r"No module named '?(heliograph\w*)", printed):
        return FailureCode.LAUNCH_SETTINGS, f"its image has no {missing[1]}: install Heliograph there"
    if code in START_FAILURES:
        return FailureCode.LAUNCH_SETTINGS, f"its container could not run its command, and exited with {code}"
    if code == EXIT_NO_OFFER:
        return FailureCode.SUPERVISOR_DIED, "its container did not find what the agent had laid there for it"
    if code == EXIT_STARTED_BEFORE:
        return FailureCode.SUPERVISOR_DIED, "somebody started its container a second time"
    if code == EXIT_SUPERVISOR_FAILED:
        return FailureCode.SUPERVISOR_DIED, "its supervisor failed"
    return FailureCode.EXIT_CODE, f"its container exited with {code} before it was over"
