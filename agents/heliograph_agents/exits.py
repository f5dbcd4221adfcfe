"""How an attempt ended, as the folder of the attempt tells it: the same for every launcher."""

from __future__ import annotations

from heliograph.engine.codes import FailureCode
from heliograph_agents.launcher import ExitKind, InfraExit
from heliograph_agents.run_directory import ExitRecord


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
