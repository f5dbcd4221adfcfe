"""What a Job and its pods say of an attempt: waiting, running, ended and how, or gone. Pure: JSON in, judgement out.

The flow's container decides, not the Job: its conditions are other ones on newer servers (`SuccessCriteriaMet` and
`FailureTarget` come before the end), and sidecars may live on. What only waits may be in trouble, which has a patience:
some trouble passes by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.container import EXIT_STARTED_BEFORE, EXIT_WITHDRAWN
from heliograph_agents.exits import exit_in
from heliograph_agents.launcher import Waiting
from heliograph_agents.launchers.exit_codes import signal_of, why
from heliograph_agents.launchers.kubernetes.names import CONTAINER
from heliograph_agents.run_directory import ExitRecord

Json = Mapping[str, Any]


class Stage(Enum):
    """How far an attempt is."""

    WAITING = "waiting"
    """Its container has not started."""
    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"
    """There is nothing of it, and nothing tells how it ended."""


class Patience(Enum):
    """How long a trouble may last."""

    NONE = "none"
    CONFIG = "config"
    IMAGE = "image"
    START = "start"
    """As long as anything may take to start."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something waits.

    Attributes:
        failure: What to report when it does not pass.
        hint: A sentence.
        patience: How long it may last.
        delay: What the control plane is told while it lasts.
    """

    failure: FailureCode
    hint: str
    patience: Patience
    delay: LaunchDelay


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of an attempt.

    Attributes:
        stage: How far it is.
        record: How it ended, when it has.
        trouble: Why it waits, when that is known.
        pod: Name of the pod that it is about.
        told: True when its supervisor left word of its end.
        lingers: True when it has ended, and something beside it goes on.
    """

    stage: Stage
    record: ExitRecord | None = None
    trouble: Trouble | None = None
    pod: str = ""
    told: bool = False
    lingers: bool = False


_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "ErrImageNeverPull", "RegistryUnavailable",
          "SignatureValidationFailed")  # fmt: skip
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError",
           "PreStartHookError", "CrashLoopBackOff")  # fmt: skip
_NODE = ("NodeLost", "NodeShutdown", "Shutdown", "Terminated", "ContainerStatusUnknown")
_UNADMITTED = ("OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "UnexpectedAdmissionError",
               "NodeAffinity", "NodePorts", "TopologyAffinityError", "PodFitsHostPorts", "Preempting")  # fmt: skip
_DISRUPTIONS = {
    "PreemptionByScheduler": (FailureCode.EVICTED, "the scheduler took its place for pods of higher priority"),
    "DeletionByTaintManager": (FailureCode.NODE_LOST, "its node was tainted"),
    "EvictionByEvictionAPI": (FailureCode.EVICTED, "somebody evicted its pod, as when a node is drained"),
    "DeletionByPodGC": (FailureCode.NODE_LOST, "its node is gone"),
    "TerminationByKubelet": (FailureCode.EVICTED, "its node ended its pod"),
}
_NOT_TAKEN = "its node did not take its pod"
_LATE = "it took longer than its Job's activeDeadlineSeconds"
_START_REASONS = ("ContainerCannotRun", "StartError")


def judge(job: Json | None, pods: Sequence[Json], *, printed: str = "") -> Judgement:
    """Judges an attempt.

    Args:
        job: Its Job; None when there is none.
        pods: Its pods, those too that are gone, as they were last seen.
        printed: The end of what its container printed, when that is known.
    """
    ordered = sorted(pods, key=lambda pod: (_meta(pod).get("creationTimestamp") or "", _meta(pod).get("name") or ""))
    main = next((pod for pod in ordered if _began(pod)), ordered[0] if ordered else None)
    if main is not None:
        found = _of_pod(main, printed)
        if found.stage is Stage.ENDED and not found.told and job is not None and _is_late(job):
            return replace(found, record=_died(FailureCode.TIMEOUT, _LATE))
        if found.stage is not Stage.GONE:
            return found
    if job is None:
        return Judgement(Stage.GONE, _died(FailureCode.INFRASTRUCTURE_DELETED, "somebody deleted its Job"))
    if _meta(job).get("deletionTimestamp"):
        return Judgement(Stage.WAITING)
    return _of_job(job)


def _of_job(job: Json) -> Judgement:
    """Judges a Job that has no pod."""
    for condition in _status(job).get("conditions") or ():
        if condition.get("status") != "True" or condition.get("type") not in ("Complete", "Failed"):
            continue
        reason = str(condition.get("reason") or "")
        if reason == "DeadlineExceeded":
            record = _died(FailureCode.TIMEOUT, _LATE)
        else:
            said = f" ({condition['message']})" if condition.get("message") else ""
            record = _died(FailureCode.INFRASTRUCTURE_DELETED, f"somebody deleted its pod{said}")
        return Judgement(Stage.GONE, record)
    return Judgement(Stage.WAITING)


def _is_late(job: Json) -> bool:
    return any(
        one.get("type") in ("Failed", "FailureTarget") and one.get("reason") == "DeadlineExceeded"
        for one in _status(job).get("conditions") or ()
    )


def _of_pod(pod: Json, printed: str) -> Judgement:
    name, status, meta = str(_meta(pod).get("name")), _status(pod), _meta(pod)
    flow = _flow(pod)
    state = (flow or {}).get("state") or {}
    if ended := state.get("terminated"):
        record, told = _of_end(pod, ended, printed)
        return Judgement(Stage.ENDED, record, None, name, told, _lingers(pod))
    if status.get("phase") in ("Failed", "Succeeded"):
        return Judgement(Stage.ENDED, _never_ran(pod), None, name)
    if "gone" in pod:  # it was deleted: this is how it was last seen
        reason, hint = _why_deleted(pod)
        ran = "running" in state
        return Judgement(Stage.ENDED if ran else Stage.GONE, _died(reason, hint), None, name)
    if "running" in state:
        return Judgement(Stage.RUNNING, None, _while_running(pod), name)
    return Judgement(Stage.WAITING, None, None if meta.get("deletionTimestamp") else _trouble(pod), name)


def _of_end(pod: Json, ended: Json, printed: str) -> tuple[ExitRecord, bool]:
    """Returns how the flow's container ended, and whether its supervisor left word of it."""
    known = exit_in(str(ended.get("message") or ""))
    if known is not None:
        return known, True
    code, reason = int(ended.get("exitCode", 0)), str(ended.get("reason") or "")
    when = _micros(str(ended.get("finishedAt") or ""))
    if code == EXIT_WITHDRAWN:
        return withdrawn(), False
    disrupted = _disruption(pod)
    if reason == "OOMKilled":
        failure, hint = FailureCode.OUT_OF_MEMORY, "the kernel killed its container for lack of memory"
    elif disrupted is not None:
        failure, hint = disrupted
    elif reason in _NODE:
        failure, hint = FailureCode.NODE_LOST, f"its node does not know what became of it ({reason})"
    elif reason == "DeadlineExceeded" or _status(pod).get("reason") == "DeadlineExceeded":
        failure, hint = FailureCode.TIMEOUT, "it took longer than its activeDeadlineSeconds"
    elif reason in _START_REASONS:
        failure, hint = FailureCode.LAUNCH_SETTINGS, f"its container could not start: {ended.get('message') or reason}"
    elif code == EXIT_STARTED_BEFORE:
        failure = FailureCode.INFRASTRUCTURE_DELETED
        hint = "somebody deleted its pod, and the cluster made another one, which did not begin again"
    elif _meta(pod).get("deletionTimestamp") and signal_of(code):
        failure, hint = FailureCode.INFRASTRUCTURE_DELETED, "somebody deleted its pod"
    else:
        failure, hint = why(code, printed)
    number = signal_of(code)
    record = ExitRecord(
        exit_code=code if number is None else None, signal=number, reason=int(failure), hint=hint, unshipped=True,
        died=True, time_micros=when,
    )  # fmt: skip
    return record, False


def _never_ran(pod: Json) -> ExitRecord:
    """Returns how a pod ended whose flow never started, or of whose flow nothing is known."""
    status = _status(pod)
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    said = f": {message}" if message else ""
    disrupted = _disruption(pod)
    if disrupted is not None and reason != "Evicted":
        return _died(*disrupted)
    if reason in ("Evicted", "Preempting"):
        return _died(FailureCode.EVICTED, f"its node evicted its pod{said}")
    if reason in _UNADMITTED or reason.startswith("OutOf"):
        return _died(FailureCode.LAUNCH_FAILED, f"{_NOT_TAKEN} ({reason}){said}", died=False)
    if reason in _NODE:
        return _died(FailureCode.NODE_LOST, f"its node is gone ({reason}){said}")
    if reason == "DeadlineExceeded":
        return _died(FailureCode.TIMEOUT, "it took longer than its activeDeadlineSeconds")
    for one in status.get("initContainerStatuses") or ():
        ended = (one.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            oom = ended.get("reason") == "OOMKilled"
            failure = FailureCode.OUT_OF_MEMORY if oom else FailureCode.LAUNCH_SETTINGS
            return _died(failure, f"its init container {one.get('name')} exited with {ended['exitCode']}")
    return _died(FailureCode.INFRASTRUCTURE_DELETED, f"its pod failed{said or ' without a reason'}")


def _why_deleted(pod: Json) -> tuple[FailureCode, str]:
    disrupted = _disruption(pod)
    if disrupted is not None:
        return disrupted
    reason = str(_status(pod).get("reason") or "")
    if reason in _NODE:
        return FailureCode.NODE_LOST, f"its node is gone ({reason})"
    if _condition(pod, "Ready").get("reason") == "NodeLost":
        return FailureCode.NODE_LOST, "its node is gone"
    return FailureCode.INFRASTRUCTURE_DELETED, "somebody deleted its pod"


def _disruption(pod: Json) -> tuple[FailureCode, str] | None:
    condition = _condition(pod, "DisruptionTarget")
    if condition.get("status") != "True":
        return None
    failure, hint = _DISRUPTIONS.get(
        str(condition.get("reason")), (FailureCode.EVICTED, f"its pod was disrupted ({condition.get('reason')})")
    )
    return failure, f"{hint}: {condition['message']}" if condition.get("message") else hint


def _trouble(pod: Json) -> Trouble | None:
    """Returns why a pod waits."""
    status = _status(pod)
    waiting = [
        (str(one.get("name")), (one.get("state") or {}).get("waiting") or {})
        for field in ("initContainerStatuses", "containerStatuses")
        for one in status.get(field) or ()
    ]
    for name, state in waiting:
        found = _of_waiting(name, str(state.get("reason") or ""), str(state.get("message") or ""))
        if found is not None:
            return found
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") in ("Unschedulable", "SchedulingGated"):
        said = str(scheduled.get("message") or scheduled["reason"])
        delay = LaunchDelay.HELD if scheduled["reason"] == "SchedulingGated" else _unscheduled(said)
        return Trouble(FailureCode.NO_CAPACITY, f"no node takes its pod: {said}", Patience.START, delay)
    return None


def _of_waiting(name: str, reason: str, message: str) -> Trouble | None:
    said = f"{reason}: {message}" if message else reason
    if reason == "InvalidImageName":
        return Trouble(FailureCode.IMAGE_UNAVAILABLE, f"container {name}: {said}", Patience.NONE, LaunchDelay.IMAGE)
    if reason in _IMAGE:
        return Trouble(FailureCode.IMAGE_UNAVAILABLE, f"container {name}: {said}", Patience.IMAGE, LaunchDelay.IMAGE)
    if reason in _CONFIG:
        return Trouble(FailureCode.LAUNCH_SETTINGS, f"container {name}: {said}", Patience.CONFIG, LaunchDelay.SETTINGS)
    return None


def _while_running(pod: Json) -> Trouble | None:
    """Returns a remark on what runs: nothing is done about it here."""
    if _condition(pod, "Ready").get("reason") == "NodeLost" or _status(pod).get("reason") == "NodeLost":
        return Trouble(FailureCode.NODE_LOST, "its node does not answer", Patience.START, LaunchDelay.PLATFORM)
    return None


_QUOTA = ("exceeded quota", "forbidden: exceeded", "failed quota", "insufficient quota")
_FAILED = {"FailedMount": LaunchDelay.STORAGE, "FailedAttachVolume": LaunchDelay.STORAGE}
_HOPELESS = ("is invalid", "no priorityclass", "violates podsecurity", "unable to validate against any",
             "denied the request", "runtimeclass")  # fmt: skip


def trouble_in(events: Iterable[Json]) -> Trouble | None:
    """Returns why a Job makes no pod, or a pod does not start, from its events: the last warning counts."""
    warnings = [one for one in events if one.get("type") == "Warning"]
    if not warnings:
        return None
    last = max(warnings, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    reason, message = str(last.get("reason") or ""), str(last.get("message") or "")
    words = message.lower()
    if reason == "FailedCreate":
        if any(one in words for one in _QUOTA):
            hint = f"the namespace's quota is used up: {message}"
            return Trouble(FailureCode.NO_CAPACITY, hint, Patience.START, LaunchDelay.QUOTA)
        if any(one in words for one in _HOPELESS) or "forbidden" in words or "not found" in words:
            hint = f"the cluster refuses its pod: {message}"
            return Trouble(FailureCode.LAUNCH_SETTINGS, hint, Patience.CONFIG, LaunchDelay.SETTINGS)
        hint = f"the cluster makes no pod: {message}"
        return Trouble(FailureCode.LAUNCH_FAILED, hint, Patience.START, LaunchDelay.PLATFORM)
    if reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedScheduling", "Failed"):
        failure = FailureCode.NO_CAPACITY if reason == "FailedScheduling" else FailureCode.LAUNCH_SETTINGS
        delay = _unscheduled(message) if reason == "FailedScheduling" else _FAILED.get(reason, LaunchDelay.PLATFORM)
        return Trouble(failure, f"{reason}: {message}", Patience.START, delay)
    return None


def _unscheduled(message: str) -> LaunchDelay:
    return LaunchDelay.STORAGE if "persistentvolumeclaim" in message.lower() else LaunchDelay.NO_ROOM


def delay_in(hint: str) -> LaunchDelay:
    """Returns what the control plane is told of a pod that never ran, from what is said of it."""
    if hint.startswith("its Secret: "):
        return LaunchDelay.PERMISSION
    return LaunchDelay.NO_ROOM if hint.startswith(_NOT_TAKEN) else LaunchDelay.PLATFORM


def waiting(job: Json | None, pod: str, trouble: Trouble | None) -> Waiting:
    """Returns why an attempt has not begun.

    Args:
        job: Its Job; None when it is not known.
        pod: Name of its pod; empty when there is none.
        trouble: What is wrong, when that is known.
    """
    if trouble is not None:
        return Waiting(trouble.delay, trouble.hint)
    if job is not None and (
        (job.get("spec") or {}).get("suspend") or _condition(job, "Suspended").get("status") == "True"
    ):
        return Waiting(LaunchDelay.HELD, "its Job is suspended")
    return Waiting(LaunchDelay.PREPARING, f"pod {pod} is being made ready" if pod else "it has no pod yet")


# --- records ---------------------------------------------------------------------------------------------------------


def withdrawn() -> ExitRecord:
    """Returns what is said of an attempt that was given back before it began."""
    return _died(FailureCode.LAUNCH_FAILED, "its agent died before it had given it all it needs", died=False)


def removed(trouble: Trouble | None, *, abandoned: bool) -> ExitRecord:
    """Returns what is said of an attempt that this agent removed.

    Args:
        trouble: Why it had not started.
        abandoned: True when the agent was told to.
    """
    if trouble is not None:
        return _died(trouble.failure, trouble.hint, lease_lost=False)
    return _died(FailureCode.INFRASTRUCTURE_DELETED, "this agent removed its Job", lease_lost=abandoned)


def _died(failure: FailureCode, hint: str, *, died: bool = True, lease_lost: bool = False) -> ExitRecord:
    # Without `died` where nothing ever lived: such a run may begin anew.
    return ExitRecord(reason=int(failure), hint=hint, unshipped=True, died=died, lease_lost=lease_lost)


# --- reading ---------------------------------------------------------------------------------------------------------


def is_over(job: Json) -> bool:
    """True when a Job says that nothing of it will run any more: on servers of all versions."""
    return any(
        one.get("type") in ("Complete", "Failed") and one.get("status") == "True"
        for one in _status(job).get("conditions") or ()
    )


def is_live(pod: Json) -> bool:
    """True when a pod may still become, or be, a running one that is not being removed."""
    return (
        "gone" not in pod
        and not _meta(pod).get("deletionTimestamp")
        and _status(pod).get("phase") not in ("Failed", "Succeeded")
    )


def _began(pod: Json) -> bool:
    """True when its flow has started; not that of a second pod, which saw that it is one and left."""
    state = (_flow(pod) or {}).get("state") or {}
    if ended := state.get("terminated"):
        return int(ended.get("exitCode", 0)) != EXIT_STARTED_BEFORE
    return "running" in state


def _lingers(pod: Json) -> bool:
    return any(
        "running" in (one.get("state") or {})
        for field in ("containerStatuses", "initContainerStatuses")
        for one in _status(pod).get(field) or ()
    )


def _flow(pod: Json) -> Json | None:
    return next((one for one in _status(pod).get("containerStatuses") or () if one.get("name") == CONTAINER), None)


def _condition(item: Json, kind: str) -> Json:
    return next((one for one in _status(item).get("conditions") or () if one.get("type") == kind), {})


def _meta(item: Json) -> Json:
    meta: Json = item.get("metadata") or {}
    return meta


def _status(item: Json) -> Json:
    status: Json = item.get("status") or {}
    return status


def _micros(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp()) * 1_000_000 if text else 0
    except ValueError:
        return 0
