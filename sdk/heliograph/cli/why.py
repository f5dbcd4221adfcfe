"""Why a run has not started, or how it ended, in words. Pure: the API's answer in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliograph.api.v1 import flow_service_pb2
from heliograph.cli.delays import waiting_lines
from heliograph.cli.not_run import NotRun
from heliograph.cli.report import failure_words, label_of, reason_lines, run_id
from heliograph.cli.states import state_name
from heliograph.cli.times import duration, local
from heliograph.client.refs import task_labels, to_datetime
from heliograph.engine.codes import StateCode

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2

    Explanation = flow_run_service_pb2.ExplainFlowRunResponse

MAX_AGENTS = 20
USUAL_LATENESS_SECONDS = 5


def explanation_lines(
    answer: Explanation, graph: flow_service_pb2.Graph | None = None, launcher: str = ""
) -> list[str]:
    """Returns what to tell a person: the situation, what it depends on, what to do.

    Args:
        answer: What the control plane answered.
        graph: The flow's graph, for the names of tasks and what stands before them.
        launcher: The type of agent that the flow asks for; empty means any.
    """
    from heliograph.api.v1 import flow_run_service_pb2 as pb

    run = answer.flow_run
    who = f"Run {run.run_name or run_id(run)}"
    labels = ", ".join(answer.required_labels)
    start_agent = f"heliograph agent start --type {launcher or 'local'}" + "".join(
        f" --label {x}" for x in answer.required_labels
    )
    if answer.required_host:
        start_agent += f"   (on host {answer.required_host}, where its bundle is)"
    words: dict[int, list[str]] = {
        pb.SITUATION_NOT_DUE: [f"{who} is due at {local(to_datetime(run.scheduled_time))}."],
        pb.SITUATION_NO_AGENT: [f"{who} waits: no agent was ever seen.", f"Start one with: {start_agent}"],
        pb.SITUATION_NO_MATCHING_AGENT: [
            f"{who} waits: no agent fits." + (f" It needs the labels {labels}." if labels else ""),
            f"Start one that does: {start_agent}",
        ],
        pb.SITUATION_MATCHING_AGENT_OFFLINE: [
            f"{who} waits: every agent that fits is offline.",
            f"Start it again: {start_agent}",
        ],
        pb.SITUATION_MATCHING_AGENT_FULL: [
            f"{who} waits for a free slot: the agents that fit are full or draining.",
            "It starts when a run ends, or when you raise an agent's --capacity.",
        ],
        pb.SITUATION_STARTING: [f"{who} should start within seconds: an agent fits and has room."],
        pb.SITUATION_RUNNING: [
            f"{who} is {state_name(run.state)} on {run.agent.removeprefix('agents/') or 'an agent'}."
        ],
        pb.SITUATION_LOST: [
            f"{who} is running, but nothing was heard of it for longer than its lease.",
            "It may come back. If its process is certainly dead: heliograph runs confirm-dead " + run_id(run),
        ],
        pb.SITUATION_PUT_BACK: [f"{who} waits: it could not be launched, and is tried again."],
        pb.SITUATION_LAUNCHING: [
            f"{who} was taken by {run.agent.removeprefix('agents/') or 'an agent'}, and has not begun."
        ],
        pb.SITUATION_CANCELLING: [f"{who} is being cancelled; its agent stops it."],
    }
    if answer.situation == pb.SITUATION_STARTING and answer.HasField("next_try_time"):
        words[pb.SITUATION_STARTING] = [f"{who} waits: an agent fits and has room."]
    lines = words.get(answer.situation) or _ended(answer, who, graph or flow_service_pb2.Graph())
    lines += waiting_lines(answer)
    lines += [f"  {text}" for text in _agents(answer)]
    if run.missing_events:
        lines.append(
            f"{run.missing_events} events are missing, and nobody has them any more: states in between are not"
        )
        lines.append("shown. Its outbox was damaged, or the control plane was restored from a backup.")
    return lines


def _ended(answer: Explanation, who: str, graph: flow_service_pb2.Graph) -> list[str]:
    run = answer.flow_run
    lines = [f"{who} is {state_name(run.state)}."]
    lines += reason_lines(run.failure)
    ids = [run.failure.error_id] if run.failure.error_id else []
    labels = task_labels(graph)
    not_run = NotRun(graph, labels, answer.failed_task_runs)
    for task in answer.failed_task_runs:
        reason = not_run.words(task)
        lines.append(
            f"Task {label_of(task, labels)} {reason.replace('not run:', 'did not run:')}"
            if reason
            else f"Task {label_of(task, labels)} is {state_name(task.state)}: {failure_words(task.failure)}"
        )
        if not reason:
            ids.append(task.failure.error_id)
    if StateCode(run.state).is_failed:
        lines += [f"Read the text, on your side: heliograph errors show {i}" for i in dict.fromkeys(ids) if i][:5]
        lines.append(f"Log lines: heliograph runs logs {run_id(run)}")
    return lines


def _agents(answer: Explanation) -> list[str]:
    """Returns the agents where they say why a run waits."""
    from heliograph.api.v1 import flow_run_service_pb2 as pb

    if answer.situation in (pb.SITUATION_FINISHED, pb.SITUATION_RUNNING, pb.SITUATION_LAUNCHING, pb.SITUATION_NOT_DUE):
        return []
    return agent_lines(answer)


def agent_lines(answer: Explanation) -> list[str]:
    """Returns a line for each agent: whether it fits, and what it lacks."""
    lines = []
    for match in answer.agents[:MAX_AGENTS]:
        lacks = [f"lacks label {label}" for label in match.missing_labels]
        lacks += ["is on another host than the bundle"] if match.wrong_host else []
        lacks += ["is of another type"] if match.wrong_launcher else []
        lacks += ["is offline"] if match.offline else []
        lacks += ["is draining"] if match.draining else []
        if match.matches and not match.offline and not match.free_slots:
            lacks.append("has no free slot")
        lines.append(f"{match.agent.removeprefix('agents/')}: {', '.join(lacks) or 'fits'}")
    return lines


def lateness(run: flow_run_service_pb2.FlowRun) -> str:
    """Returns `late by 2 min` for a run that should have started, else an empty text; a few seconds are usual."""
    late = run.lateness.ToTimedelta().total_seconds() if run.HasField("lateness") else 0.0
    return f"late by {duration(late)}" if late >= USUAL_LATENESS_SECONDS else ""
