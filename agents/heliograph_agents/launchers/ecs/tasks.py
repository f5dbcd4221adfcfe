"""The tasks of one agent as ECS knows them: listed by who started them, described a hundred at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from heliograph_agents.launcher import Handle
from heliograph_agents.launchers.ecs.aws import Aws, AwsRefusedError
from heliograph_agents.launchers.ecs.plan import name_of
from heliograph_agents.launchers.labels import attempt_in

_log = logging.getLogger("heliograph.agent")

BATCH = 100
"""Most tasks that one question may be about."""

GONE: Mapping[str, Any] = {"lastStatus": "MISSING"}
"""What is remembered of a task that ECS does not know."""

Task = Mapping[str, Any]


class Tasks:
    """What ECS last said of tasks. Threads may share it.

    Args:
        aws: The account.
        cluster: The cluster; empty means the default one.
        started_by: What this agent's tasks are listed by.
    """

    def __init__(self, aws: Aws, cluster: str, started_by: str) -> None:
        self._aws, self._started_by = aws, started_by
        self._where: dict[str, str] = {"cluster": cluster} if cluster else {}
        self._seen: dict[str, tuple[float, Task]] = {}
        self._lock = threading.Lock()

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Has ECS start a task. Returns its answer: `tasks`, or `failures` where it found no place.

        Raises:
            OSError: ECS does not do it, or does not say whether it did.
        """
        return self._aws.call("ecs", "run_task", **arguments)

    def list(self, status: str) -> list[str]:
        """Returns the ARNs of this agent's tasks that are, or should be, `RUNNING` or `STOPPED`.

        Raises:
            OSError: ECS does not say.
        """
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            answer = self._aws.call(
                "ecs", "list_tasks", startedBy=self._started_by, desiredStatus=status, **self._where, **more
            )
            found += [str(arn) for arn in answer.get("taskArns") or ()]
            if not answer.get("nextToken"):
                return found
            more = {"nextToken": str(answer["nextToken"])}

    def look(self, arns: Collection[str]) -> None:
        """Asks what became of these tasks.

        Raises:
            OSError: ECS does not say.
        """
        wanted = list(dict.fromkeys(arns))
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            answer = self._aws.call("ecs", "describe_tasks", tasks=batch, include=["TAGS"], **self._where)
            now = time.monotonic()
            with self._lock:
                for task in answer.get("tasks") or ():
                    self._seen[str(task["taskArn"])] = (now, task)
                for failure in answer.get("failures") or ():
                    if str(failure.get("reason", "")).upper() == "MISSING":
                        self._seen[str(failure.get("arn"))] = (now, GONE)

    def seen(self, arn: str, within_seconds: float) -> Task | None:
        """Returns what ECS said of a task within that time; None when it was not asked."""
        with self._lock:
            when, task = self._seen.get(arn, (0.0, None))
        # How a task stopped never changes.
        if task is not None and (task.get("lastStatus") == "STOPPED" or time.monotonic() - when <= within_seconds):
            return task
        return None

    def forget(self, arn: str) -> None:
        """Remembers nothing of a task."""
        with self._lock:
            self._seen.pop(arn, None)

    def stop(self, arn: str, reason: str) -> None:
        """Stops a task: SIGTERM, then SIGKILL after the definition's `stopTimeout`. One that is gone is stopped.

        Raises:
            OSError: ECS does not do it.
        """
        try:
            self._aws.call("ecs", "stop_task", task=arn, reason=reason[:250], **self._where)
        except AwsRefusedError as error:
            if not error.says(("not found", "was not found", "missing")) or error.throttled:
                raise


class Watch:
    """Looks at live tasks on a thread of its own, and tells of those that have stopped.

    Args:
        tasks: The tasks.
        live: Returns the ARNs to look at.
        stopped: Takes the ARN of one that has stopped, or is gone.
        seconds: How often.
    """

    def __init__(
        self, tasks: Tasks, live: Callable[[], Iterable[str]], stopped: Callable[[str], None], seconds: float
    ) -> None:
        self._tasks, self._live, self._stopped, self._seconds = tasks, live, stopped, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heliograph-ecs-watch", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._end.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        away = False
        while not self._end.wait(self._seconds):
            live = list(self._live())
            try:
                if live:
                    self._tasks.look(live)
                if away:
                    _log.warning("ECS answers again")
                away = False
            except OSError as error:
                if not away:
                    _log.warning("ECS does not say what runs: %s", error)
                away = True
                continue
            for arn in live:
                task = self._tasks.seen(arn, self._seconds)
                if task is not None and task.get("lastStatus") in ("STOPPED", "MISSING"):
                    self._stopped(arn)


def handle_of(task: Task) -> Handle | None:
    """Returns the attempt that a task's tags name; None when they name none."""
    tags = {str(one.get("key")): str(one.get("value")) for one in task.get("tags") or ()}
    return attempt_in(tags, name_of)
