"""The end of what a dead task printed, from CloudWatch: for the agent's log, which stays on this side."""

from __future__ import annotations

from heliograph_agents.launchers.ecs.aws import Aws
from heliograph_agents.launchers.ecs.options import EcsOptions

MAX_BYTES = 64 * 1024


def tail(aws: Aws, options: EcsOptions, container: str, task_arn: str) -> str:
    """Returns the last lines of a task's container; empty when there is no log group, or they are not wanted.

    Raises:
        OSError: CloudWatch does not give them.
    """
    if not (options.log_group and options.crash_lines):
        return ""
    stream = f"{options.log_prefix}/{container}/{task_arn.rpartition('/')[2]}"
    answer = aws.call(
        "logs", "get_log_events", logGroupName=options.log_group, logStreamName=stream,
        limit=min(options.crash_lines, 10_000), startFromHead=False,
    )  # fmt: skip
    lines = [str(event.get("message", "")) for event in answer.get("events") or ()]
    return "\n".join(lines)[-MAX_BYTES:]
