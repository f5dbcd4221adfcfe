"""What the JSON of Jobs, pods and events says of an attempt, on servers of both forms."""

from __future__ import annotations

from typing import Any

import pytest

from heliograph.engine.codes import FailureCode
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import ExitKind
from heliograph_agents.launchers.kubernetes.phases import Patience, Stage, is_over, judge, trouble_in

Json = dict[str, Any]


def job(*conditions: str, reason: str = "", **meta: Any) -> Json:
    """Returns a Job with conditions."""
    found = [{"type": one, "status": "True", "reason": reason} for one in conditions]
    return {"metadata": {"name": "j", **meta}, "status": {"conditions": found}}


def pod(state: Json | None = None, *, name: str = "p", at: str = "1", meta: Json | None = None, **status: Any) -> Json:
    """Returns a pod whose flow is in a state."""
    statuses = [{"name": "flow", "state": state}] if state is not None else []
    return {
        "metadata": {"name": name, "uid": name, "creationTimestamp": at, **(meta or {})},
        "status": {"containerStatuses": statuses, **status},
    }


RUNNING: Json = {"running": {}}


@pytest.mark.parametrize("early", ["SuccessCriteriaMet", "FailureTarget"])
def test_the_first_conditions_of_newer_servers_are_no_end(early: str) -> None:
    assert not is_over(job(early))
    assert judge(job(early), [pod(RUNNING)]).stage is Stage.RUNNING
    assert judge(job(early), []).stage is Stage.WAITING
    for last in ("Complete", "Failed"):
        assert is_over(job(early, last))
        assert is_over(job(last)), "as older servers have it"
    assert not is_over({"status": {"conditions": [{"type": "Failed", "status": "False"}]}})


def test_the_flows_container_decides_whatever_the_job_says() -> None:
    ended = pod({"terminated": {"exitCode": 0, "message": '{"state": 10}'}}, phase="Running")
    found = judge(job(), [ended])
    assert (found.stage, found.told) == (Stage.ENDED, True)
    assert found.record is not None
    assert exit_of(found.record).kind is ExitKind.FINISHED
    assert judge(job("Failed"), [pod(RUNNING)]).stage is Stage.RUNNING


@pytest.mark.parametrize("word", ["", "{", "[]", '{"state": "x", "lies": 1}', '{"time_micros": "soon"}', "a" * 4096])
def test_a_word_that_is_none_is_not_believed(word: str) -> None:
    found = judge(job(), [pod({"terminated": {"exitCode": 3, "message": word}})])
    assert not found.told
    assert found.record is not None
    assert exit_of(found.record).reason is FailureCode.EXIT_CODE


def test_a_pod_that_only_ends_is_still_there() -> None:
    going = pod(RUNNING, meta={"deletionTimestamp": "now"})
    assert judge(job(), [going]).stage is Stage.RUNNING
    assert judge(None, [going]).stage is Stage.RUNNING
    assert judge(job(deletionTimestamp="now"), []).stage is Stage.WAITING
    assert judge(None, []).stage is Stage.GONE


def test_a_second_pod_says_nothing_of_the_first() -> None:
    second = pod({"terminated": {"exitCode": 77}}, name="second", at="2", phase="Failed")
    assert judge(job(), [pod(RUNNING), second]).stage is Stage.RUNNING
    gone = {**pod(RUNNING), "gone": True}
    found = judge(job("Failed"), [gone, second])
    assert found.record is not None
    assert found.record.reason == FailureCode.INFRASTRUCTURE_DELETED
    alone = judge(job("Failed"), [second])
    assert alone.record is not None
    assert alone.record.reason == FailureCode.INFRASTRUCTURE_DELETED


def test_a_job_that_took_too_long_is_called_that() -> None:
    gone = {**pod(RUNNING), "gone": True}
    for pods in ([gone], [], [pod({"terminated": {"exitCode": 137}}, meta={"deletionTimestamp": "now"})]):
        found = judge(job("Failed", reason="DeadlineExceeded"), pods)
        assert found.record is not None
        assert found.record.reason == FailureCode.TIMEOUT


@pytest.mark.parametrize("where", ["initContainerStatuses", "containerStatuses"])
def test_what_starts_before_the_flow_and_beside_it_may_be_in_trouble(where: str) -> None:
    waiting = pod(phase="Pending", **{where: [{"name": "side", "state": {"waiting": {"reason": "ErrImagePull"}}}]})
    found = judge(job(), [waiting])
    assert found.stage is Stage.WAITING
    assert found.trouble is not None
    assert (found.trouble.failure, found.trouble.patience) == (FailureCode.IMAGE_UNAVAILABLE, Patience.IMAGE)
    assert "side" in found.trouble.hint


@pytest.mark.parametrize(
    ("reason", "failure"), [("Error", FailureCode.LAUNCH_SETTINGS), ("OOMKilled", FailureCode.OUT_OF_MEMORY)]
)
def test_an_init_container_that_fails_is_named(reason: str, failure: FailureCode) -> None:
    state = {"terminated": {"exitCode": 9, "reason": reason}}
    found = judge(job(), [pod(phase="Failed", initContainerStatuses=[{"name": "fetch", "state": state}])])
    assert found.record is not None
    assert found.record.reason == failure
    assert "fetch exited with 9" in found.record.hint


def test_the_last_warning_counts() -> None:
    def event(at: str, reason: str, message: str, kind: str = "Warning") -> Json:
        return {"type": kind, "reason": reason, "message": message, "lastTimestamp": at}

    assert trouble_in([]) is None
    assert trouble_in([event("1", "SuccessfulCreate", "made", "Normal")]) is None
    quota, gone = event("1", "FailedCreate", "exceeded quota: q"), event("2", "FailedMount", 'secret "x" not found')
    found = trouble_in([gone, quota])
    assert found is not None
    assert 'secret "x" not found' in found.hint
    found = trouble_in([quota])
    assert found is not None
    assert (found.failure, found.patience) == (FailureCode.NO_CAPACITY, Patience.START)


def test_an_image_without_heliograph_is_known_by_what_it_printed() -> None:
    ended = pod({"terminated": {"exitCode": 1, "reason": "Error"}}, phase="Failed")
    found = judge(job(), [ended], printed="python: No module named heliograph_agents")
    assert found.record is not None
    assert found.record.reason == FailureCode.LAUNCH_SETTINGS
