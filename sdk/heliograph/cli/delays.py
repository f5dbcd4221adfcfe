"""Why a run that an agent took has not started, in words: what its agent told, and what to do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from heliograph.cli.times import ago, local
from heliograph.client.refs import to_datetime
from heliograph.engine.codes import LaunchDelay, StateCode

if TYPE_CHECKING:
    from heliograph.api.v1 import flow_run_service_pb2

    Explanation = flow_run_service_pb2.ExplainFlowRunResponse

WORDS: Final[dict[LaunchDelay, tuple[str, str]]] = {
    LaunchDelay.NO_ROOM: (
        "the infrastructure has no free place that fits it",
        "It starts when something else ends there. Else add capacity, or have the flow ask for less CPU and memory.",
    ),
    LaunchDelay.QUOTA: (
        "a quota of the infrastructure is used up",
        "It starts when other work ends. Else raise the quota of its namespace or account.",
    ),
    LaunchDelay.THROTTLED: (
        "the infrastructure asks for fewer calls",
        "That passes by itself. If it does not, lower the agent's --capacity or raise the account's limits.",
    ),
    LaunchDelay.IMAGE: (
        "its image cannot be fetched",
        "See that the image's name is right, and that it may be pulled from where the run is to be.",
    ),
    LaunchDelay.STORAGE: (
        "a disk or volume is full, missing or not attached",
        "Make room on it, or see to the volumes that the flow's launch settings name.",
    ),
    LaunchDelay.SETTINGS: (
        "something that its launch settings name is missing, or does not start",
        "Mend what is missing, or the flow's run config, and register the flow again.",
    ),
    LaunchDelay.PERMISSION: (
        "the infrastructure refuses the agent's credentials",
        "Give the agent the rights that it lacks.",
    ),
    LaunchDelay.UNREACHABLE: (
        "the infrastructure does not answer its agent",
        "See that it is up, and can be reached from the agent's host.",
    ),
    LaunchDelay.PLATFORM: ("the infrastructure could not start it, and may at another time", ""),
    LaunchDelay.AGENT: (
        "its agent's host could not do its part",
        "See to that host's disk, memory and number of processes.",
    ),
    LaunchDelay.UNCONFIRMED: (
        "its agent got no usable answer when it confirmed that it takes it",
        "If that goes on, look at the connection between the agent and the control plane.",
    ),
    LaunchDelay.PREPARING: ("its place is being made ready, or its image fetched", ""),
    LaunchDelay.HELD: (
        "the infrastructure holds it back",
        "It starts when its queue admits it, or when somebody resumes it there.",
    ),
}
"""For each reason: what it is, and what to do."""


def waiting_lines(answer: Explanation) -> list[str]:
    """Returns what an agent's attempts to start a run came to; nothing for a run that was never tried, or has begun."""
    run = answer.flow_run
    if run.HasField("start_time"):
        return []
    over = StateCode(run.state).is_finished
    agent = run.agent.removeprefix("agents/") or "its agent"
    what, advice = _words(answer.launch_delay)
    lines = []
    if answer.put_back_count:
        lines.append(f"{agent} put it back {_times(answer.put_back_count)}" + (f": {what}." if what else "."))
    elif what:
        lines.append(f"It {'waited' if over else 'waits'}: {what}.")
    if over:
        return lines
    if answer.HasField("next_try_time"):
        again = to_datetime(answer.next_try_time)
        cause = "" if lines else ", after the control plane was restored from a backup"
        lines.append(f"It is given out again {ago(again)}, at {local(again)}{cause}.")
    if advice:
        lines.append(advice)
    if what and answer.launch_delay != int(LaunchDelay.PREPARING):
        lines.append(f"The log of {agent} says it to the word.")
    return lines


def _words(number: int) -> tuple[str, str]:
    """Returns what a reason is, and what to do; empty where none is known, as of a newer control plane."""
    known = {int(delay): words for delay, words in WORDS.items()}
    return known.get(number, ("", ""))


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"
