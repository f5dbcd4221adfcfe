"""What became of a task that has stopped, from what ECS says of it: its stop code, its words, its container's exit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from heliograph.engine.codes import FailureCode, LaunchDelay, StateCode
from heliograph_agents import container as codes
from heliograph_agents.launcher import Waiting
from heliograph_agents.launchers.exit_codes import signal_of, why
from heliograph_agents.run_directory import ExitRecord

_KNOWN_TO_ALL = (codes.EXIT_GOOD, codes.EXIT_TOLD_FAILED, codes.EXIT_TOLD_CRASHED)
"""Exits after which the control plane knows how the run ended."""

_PASSING = ("timeout waiting for network interface", "capacity is unavailable", "eni", "rate exceeded", "throttl",
            "dockertimeouterror", "containerruntimetimeouterror", "internalerror", "internal error",
            "unexpected ec2 error", "insufficient", "no private ip")  # fmt: skip
"""What ECS says of tasks that never began and would begin at another time or place."""

_IMAGE = ("cannotpullcontainer", "cannotpullimage", "cannotpullecr", "pull image manifest")
_SETTINGS = ("resourceinitializationerror", "cannotstartcontainererror", "cannotcreatecontainererror",
             "cannotcreatevolumeerror", "accessdenied", "assumerole", "unable to assume", "exec format")  # fmt: skip


def verdict(task: Mapping[str, Any], container: str, *, abandoned: bool, stopped_by_us: bool) -> ExitRecord:
    """Judges a stopped task.

    Args:
        task: As ECS describes it.
        container: Name of the flow's container.
        abandoned: True when this agent gave it up.
        stopped_by_us: True when this agent asked it to end.
    """
    mine = container_of(task, container)
    code = mine.get("exitCode")
    stop, said = str(task.get("stopCode") or ""), words(task, mine)
    ended = _micros(task.get("stoppedAt") or task.get("executionStoppedAt"))
    if abandoned:
        return _record(None, None, FailureCode.INFRASTRUCTURE_DELETED, "this agent stopped its task", ended,
                       lease_lost=True)  # fmt: skip
    if code is None:
        reason, hint = _unstarted(stop, said)
        return _record(None, None, reason, hint, ended)
    number = signal_of(int(code))
    oom = "outofmemory" in said.lower()
    if code in _KNOWN_TO_ALL and not oom:
        state = StateCode.SUCCESS if code == codes.EXIT_GOOD else StateCode.FAILED
        return ExitRecord(exit_code=None if code else 0, state=int(state), time_micros=ended)  # it is not the flow's
    if code == codes.EXIT_LEASE_LOST:
        return _record(code, None, None, "its lease was lost", ended, lease_lost=True)
    reason, hint = _why(int(code), number, stop, oom=oom)
    if stopped_by_us and reason is FailureCode.SIGNAL:
        hint = "this agent stopped its task, since it did not end by itself in its grace period"
    return _record(code if number is None else None, number, reason, f"{hint} ({said})" if said else hint, ended)


def gone() -> ExitRecord:
    """Returns what is said of a task that was started and that ECS does not know any more."""
    hint = "ECS knows nothing of its task any more: it stopped more than an hour ago, or its cluster is gone"
    return _record(None, None, FailureCode.INFRASTRUCTURE_DELETED, hint, 0)


def never_started(why: str) -> ExitRecord:
    """Returns what is said of an attempt that has no task."""
    return _record(None, None, FailureCode.LAUNCH_FAILED, why, 0)


def delay_in(hint: str) -> LaunchDelay:
    """Returns what the control plane is told of a task that never began, from what is said of it."""
    text = hint.lower()
    if "throttl" in text or "rate exceeded" in text:
        return LaunchDelay.THROTTLED
    if any(word in text for word in ("capacity", "insufficient", "no private ip")):
        return LaunchDelay.NO_ROOM
    return LaunchDelay.PLATFORM


def waiting(task: Mapping[str, Any] | None) -> Waiting | None:
    """Returns why a task has not begun; None for one that runs, or is not known."""
    status = str((task or {}).get("lastStatus") or "")
    if status in ("PROVISIONING", "PENDING", "ACTIVATING"):
        return Waiting(LaunchDelay.PREPARING, f"its task is {status}")
    return None


def container_of(task: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns the flow's container of a task: the one that was told to begin a run, else the one of that name.

    Empty when the task never had one.
    """
    for one in (task.get("overrides") or {}).get("containerOverrides") or ():
        if "heliograph_agents.container" in (one.get("command") or ()):
            name = str(one.get("name"))
    containers: list[Mapping[str, Any]] = list(task.get("containers") or ())
    return next((one for one in containers if one.get("name") == name), containers[0] if containers else {})


def words(task: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """Returns what ECS says in words of a task and of its container."""
    said = [str(one) for one in (task.get("stoppedReason"), mine.get("reason")) if one]
    return "; ".join(dict.fromkeys(said))


def _unstarted(stop: str, said: str) -> tuple[FailureCode, str]:
    """Judges a task whose container has no exit code: it never ran, or nobody saw it end."""
    text = said.lower()
    if stop in ("SpotInterruption", "TerminationNotice"):
        return FailureCode.LAUNCH_FAILED, f"AWS took its capacity back before it began ({said})"
    if any(one in text for one in _IMAGE):
        advice = "see that the image is there, that the execution role may pull it, and that the subnet has a way to it"
        return FailureCode.IMAGE_UNAVAILABLE, f"its image cannot be pulled: {said}; {advice}"
    if any(re.search(rf"\b{re.escape(one)}", text) for one in _PASSING):
        return FailureCode.LAUNCH_FAILED, f"its task could not start, and may at another time: {said}"
    if any(one in text for one in _SETTINGS):
        advice = "a subnet without a public address needs NAT or VPC endpoints; the execution role needs its rights"
        return FailureCode.LAUNCH_SETTINGS, f"its task could not start: {said}; {advice}"
    if stop == "UserInitiated":
        return FailureCode.INFRASTRUCTURE_DELETED, f"somebody stopped its task before it began ({said})"
    if stop == "InfrastructureHealth" or "host ec2" in text:
        return FailureCode.NODE_LOST, f"its host is gone ({said})"
    if stop == "TaskFailedToStart":
        return FailureCode.LAUNCH_SETTINGS, f"its task could not start: {said or 'ECS does not say why'}"
    return FailureCode.NODE_LOST, f"its task ended, and nobody saw how ({said or stop or 'ECS does not say why'})"


def _why(code: int, number: int | None, stop: str, *, oom: bool) -> tuple[FailureCode, str]:
    if oom:
        return FailureCode.OUT_OF_MEMORY, "its task had not enough memory: give it more"
    if stop in ("SpotInterruption", "TerminationNotice", "InfrastructureHealth"):
        return FailureCode.EVICTED, "AWS took its capacity back"
    if code == codes.EXIT_CODE_SPENT:
        return FailureCode.SUPERVISOR_DIED, (
            "somebody else exchanged its start code before its container could: find out who may read tasks, "
            "and what that one did with the run"
        )
    if code in (codes.EXIT_CODE_REFUSED, codes.EXIT_NO_OFFER):
        return FailureCode.LAUNCH_FAILED, (
            "its container got no run for its start code; its output says why: often it cannot reach the control plane"
        )
    if code in (codes.EXIT_STARTED_BEFORE, codes.EXIT_SUPERVISOR_FAILED, codes.EXIT_UNSHIPPED):
        return FailureCode.SUPERVISOR_DIED, "its supervisor failed"
    if stop == "UserInitiated" and number is not None:
        return FailureCode.INFRASTRUCTURE_DELETED, "somebody stopped its task"
    if code in (1, 2, 125, 126, 127):
        return FailureCode.LAUNCH_SETTINGS, (
            f"its container exited with {code} before it began: see what it printed, and that its image has Heliograph"
        )
    return why(code, "")


def _record(
    code: int | None, number: int | None, reason: FailureCode | None, hint: str, ended: int, *, lease_lost: bool = False
) -> ExitRecord:
    # Without `died` where nothing ever lived: such a run may begin anew.
    return ExitRecord(
        exit_code=code,
        signal=number,
        reason=int(reason or 0),
        hint=hint,
        unshipped=True,
        lease_lost=lease_lost,
        died=reason is not FailureCode.LAUNCH_FAILED and not lease_lost,
        time_micros=ended,
    )


def _micros(moment: Any) -> int:
    if isinstance(moment, datetime):
        return int(moment.timestamp() * 1_000_000)
    return 0
