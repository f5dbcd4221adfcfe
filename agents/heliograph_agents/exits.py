"""How an attempt ended, as the folder of the attempt tells it: the same for every launcher."""

from __future__ import annotations

from heliograph.engine.codes import FailureCode
from heliograph_agents.launcher import ExitKind, InfraExit
from heliograph_agents.run_directory import ExitRecord, parse_exit_record


def exit_of(record: ExitRecord) -> InfraExit:
    """Returns the end that `exit.json` tells."""
    reason = FailureCode(record.reason) if record.reason else None
    if record.lease_lost:
        kind = ExitKind.LEASE_LOST
    elif reason is FailureCode.LAUNCH_FAILED:
        kind = ExitKind.NEVER_STARTED
    elif record.died or reason in (FailureCode.SUPERVISOR_DIED, FailureCode.HOST_RESTARTED):
        kind = ExitKind.DIED
    else:
        kind = ExitKind.UNSHIPPED if record.unshipped else ExitKind.FINISHED
    return InfraExit(kind, reason, record.exit_code, record.signal, record.hint, record.time_micros)


def exit_in(text: str) -> ExitRecord | None:
    """Reads the exit that a container left; None when it is none. The flow may have written anything there."""
    try:
        record = parse_exit_record(text)
        exit_of(record)
        int(record.time_micros)
    except (ValueError, TypeError):
        return None
    return record
