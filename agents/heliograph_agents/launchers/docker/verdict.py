"""What became of a container that has ended without a word of its supervisor: from the engine's state alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from heliograph.engine.codes import FailureCode
from heliograph_agents.launchers.exit_codes import signal_of, why
from heliograph_agents.run_directory import ExitRecord

_LOST_CODE = 255
"""What the engine says of a container that it found dead when it, or its host, came back."""


def verdict(state: Mapping[str, Any], *, killed_by_us: bool, stopped_by_us: bool, printed: str) -> ExitRecord:
    """Judges the state of a container that runs no more.

    Args:
        state: `State` of the engine's answer.
        killed_by_us: True when this agent abandoned it.
        stopped_by_us: True when this agent asked it to end.
        printed: The end of what it printed.
    """
    code = int(state.get("ExitCode", 0))
    said = str(state.get("Error") or "")
    number = signal_of(code)
    reason, hint = _why(code, printed, oom=bool(state.get("OOMKilled")))
    if stopped_by_us and reason is FailureCode.SIGNAL:
        hint = "this agent ended its container, since it did not end by itself in its grace period"
    if killed_by_us:
        hint = "this agent removed its container"
    return ExitRecord(
        exit_code=code if number is None else None,
        signal=number,
        reason=int(reason),
        hint=f"{hint} ({said})" if said else hint,
        unshipped=True,
        lease_lost=killed_by_us,
        died=True,
        time_micros=_micros(str(state.get("FinishedAt", ""))),
    )


def gone() -> ExitRecord:
    """Returns what is said of a container that was started and is not there any more."""
    return _died(FailureCode.INFRASTRUCTURE_DELETED, "somebody removed its container")


def never_started() -> ExitRecord:
    """Returns what is said of an attempt whose container was not started."""
    return _died(FailureCode.LAUNCH_FAILED, "its container was never started")


def _died(reason: FailureCode, hint: str) -> ExitRecord:
    # Without `died` where nothing ever lived: such a run may begin anew.
    died = reason is not FailureCode.LAUNCH_FAILED
    return ExitRecord(reason=int(reason), hint=hint, unshipped=True, died=died)


def _why(code: int, printed: str, *, oom: bool) -> tuple[FailureCode, str]:
    if oom:
        return FailureCode.OUT_OF_MEMORY, "the kernel killed its container for lack of memory"
    if code == _LOST_CODE:
        return FailureCode.HOST_RESTARTED, "Docker, or its host, restarted without it"
    return why(code, printed)


def _micros(text: str) -> int:
    """Reads a time of the engine, which has more digits than Python takes."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d*)?Z", text)
    if match is None or match[1].startswith("0001"):
        return 0
    moment = datetime.fromisoformat(f"{match[1]}+00:00")
    return int(moment.timestamp()) * 1_000_000 + int((match[2] or "0").ljust(6, "0"))
