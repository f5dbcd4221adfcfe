"""Looks at attempts: at what is known of their ends, at the view, and at the cluster where the view tells of an end.

What only waits is seen to: that its offer was made, and how long its trouble may last.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from heliograph.engine.codes import FailureCode
from heliograph_agents.exits import exit_of
from heliograph_agents.launcher import Handle, InfraExit, Liveness, Waiting
from heliograph_agents.launchers.kubernetes import names, offer, phases
from heliograph_agents.launchers.kubernetes.api import Api
from heliograph_agents.launchers.kubernetes.offering import Offering
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.patience import Patients
from heliograph_agents.launchers.kubernetes.phases import Judgement, Stage, Trouble, judge
from heliograph_agents.launchers.kubernetes.removal import Removals
from heliograph_agents.launchers.kubernetes.view import View, owner_of
from heliograph_agents.launchers.records import Records
from heliograph_agents.output import repeat
from heliograph_agents.run_directory import ExitRecord

_log = logging.getLogger("heliograph.agent")

EVENT_SECONDS = 10.0
"""How often the events of a Job without a pod are read."""

SLOW_SECONDS = 60.0
"""Waiting time from which on the events of a pod are read that is in no trouble by its own word."""


class Looks:
    """Looks at the attempts of one agent. Threads may share it, one to an attempt.

    Args:
        api: The API.
        view: What the watches have seen.
        records: The attempts' folders.
        options: What the agent's owner sets.
        pool: The label of the agent's own.
        offering: The offers that are being made.
        removals: Removes what cannot start.
    """

    def __init__(
        self, api: Api, view: View, records: Records, options: KubernetesOptions, pool: str, offering: Offering,
        removals: Removals,
    ) -> None:  # fmt: skip
        self._api, self._view, self._records, self._options, self._pool = api, view, records, options, pool
        self._offering, self._removals = offering, removals
        self._patients = Patients(options)
        self._events: dict[str, tuple[float, Trouble | None]] = {}
        self._followed: set[str] = set()
        self._waits: dict[str, Waiting] = {}
        self._waiting_since: dict[str, float] = {}

    def look(self, handle: Handle) -> Liveness | InfraExit:
        """Says what is there. An end is written down, so that it stays the same when Job and pod are gone.

        Raises:
            OSError: The API is away, or refuses.
        """
        if (known := self._records.folder(handle).exit()) is not None:
            return exit_of(known)
        name = handle.infrastructure
        job, pods = self._view.seen(name)
        seen = judge(job, pods)
        if job is None or seen.stage in (Stage.ENDED, Stage.GONE):
            job, pods = self._ask(handle)
            seen = judge(job, pods)
        if seen.stage is Stage.RUNNING:
            self._patients.better(name)
            self._begun(name)
            self._show(handle, seen)
            return Liveness.STARTING
        if seen.stage is Stage.WAITING:
            assert job is not None or pods
            self._while_waiting(handle, job, seen)
            return Liveness.STARTING
        return self._settle(handle, self._ended(handle, job, pods, seen), lingers=seen.lingers)

    def waits_for(self, handle: Handle) -> Waiting | None:
        """Says why an attempt had not begun at the last look; None when it had."""
        return self._waits.get(handle.infrastructure)

    def _ask(self, handle: Handle) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Returns the Job and the pods that there are, and those that were, after a look at the cluster."""
        namespace, name = names.namespace_and_name(handle)
        job = self._api.get("jobs", namespace, name)
        wanted = names.selector_of(handle, self._pool)
        found, _ = self._api.list("pods", namespace, labelSelector=wanted)
        pods = [pod for pod in found if owner_of(pod) == handle.infrastructure]
        uids = {pod["metadata"]["uid"] for pod in pods}
        _, before = self._view.seen(handle.infrastructure)
        gone = [{**pod, "gone": True} for pod in before if pod["metadata"]["uid"] not in uids]
        return job, [*pods, *gone]

    def _while_waiting(self, handle: Handle, job: dict[str, Any] | None, seen: Judgement) -> None:
        """Sees to what has not started: makes sure that its offer was made, and loses patience with its trouble."""
        name = handle.infrastructure
        if job is None or job["metadata"].get("deletionTimestamp"):
            return
        if (why := self._removals.why(name)) is not None:
            self._removals.remove(handle, why)  # asked before, and not taken
            return
        if not self._offering.is_under_way(name) and not self._records.folder(handle).has("started"):
            if offer.withdraw(self._api, job):
                _log.warning("%s was not offered by the agent that made its Job: it is given back", handle.flow_run)
                self._removals.remove(handle, phases.withdrawn())
                return
            self._records.mark(handle, "started")
        trouble = seen.trouble
        if trouble is None and not seen.pod:
            trouble = self._events_of(name, str(job["metadata"]["uid"]))
        told, now = trouble, time.monotonic()
        if told is None and seen.pod and now >= self._waiting_since.setdefault(name, now) + SLOW_SECONDS:
            told = self.trouble_of(handle)  # as a volume that cannot be mounted, which its events alone tell
        self._waits[name] = phases.waiting(job, seen.pod, told)
        if self._patients.is_hopeless(name, trouble):
            assert trouble is not None
            self._removals.give_up(handle, trouble)

    def trouble_of(self, handle: Handle) -> Trouble | None:
        """Returns why an attempt waits; None when it does not, or nobody says."""
        name = handle.infrastructure
        job, pods = self._view.seen(name)
        seen = judge(job, pods)
        if seen.stage is not Stage.WAITING:
            return None
        about = next((pod for pod in pods if "gone" not in pod), job)
        if seen.trouble is not None or about is None:
            return seen.trouble
        return self._events_of(name, str(about["metadata"]["uid"]))

    def _events_of(self, name: str, uid: str) -> Trouble | None:
        """Returns what the events of an object say of why it waits; nothing where this agent may not read them."""
        at, known = self._events.get(name, (0.0, None))
        if time.monotonic() < at + EVENT_SECONDS:
            return known
        namespace, _, _ = name.partition("/")
        try:
            found, _ = self._api.list("events", namespace, fieldSelector=f"involvedObject.uid={uid}")
            known = phases.trouble_in(found)
        except OSError:
            known = None
        self._events[name] = time.monotonic(), known
        return known

    def _ended(
        self, handle: Handle, job: dict[str, Any] | None, pods: list[dict[str, Any]], seen: Judgement
    ) -> ExitRecord:
        """Returns how it ended: its own word, what this agent did to it, or what the cluster says."""
        folder, record = self._records.folder(handle), seen.record
        assert record is not None
        ours = self._removals.why(handle.infrastructure)
        if folder.has("abandoned"):
            return ours or phases.removed(None, abandoned=True)
        if seen.told:
            return record
        if ours is not None:
            return ours
        if job is None and not pods and not folder.has("started"):
            return phases.withdrawn()
        printed = ""
        if seen.stage is Stage.ENDED and seen.pod and self._options.crash_lines:
            namespace, _ = names.namespace_and_name(handle)
            printed = self._api.log(namespace, seen.pod, names.CONTAINER, self._options.crash_lines)
            if printed:
                _log.error("%s died without a word. The end of what it printed:\n%s", seen.pod, printed.rstrip())
                record = judge(job, pods, printed=printed).record or record
        if folder.has("stopped") and record.reason == FailureCode.SIGNAL:
            record = replace(
                record, hint="this agent ended its pod, since it did not end by itself in its grace period"
            )
        return record

    def _settle(self, handle: Handle, record: ExitRecord, *, lingers: bool) -> InfraExit:
        """Writes the end down, so that it stays the same when Job and pod are gone."""
        if lingers:
            self._records.mark(handle, "lingers")
        found = self._records.settle(handle, record)
        name = handle.infrastructure
        self._view.forget(name)
        self._patients.better(name)
        self._removals.forget(name)
        self._events.pop(name, None)
        self._followed.discard(name)
        self._begun(name)
        return found

    def _begun(self, name: str) -> None:
        """An attempt waits no more."""
        self._waits.pop(name, None)
        self._waiting_since.pop(name, None)

    def _show(self, handle: Handle, seen: Judgement) -> None:
        """Repeats what a container prints on the agent's own output, where that is wanted."""
        if self._options.show_logs and seen.pod and handle.infrastructure not in self._followed:
            self._followed.add(handle.infrastructure)
            namespace, _ = names.namespace_and_name(handle)
            printed = self._api.follow(namespace, seen.pod, names.CONTAINER)
            threading.Thread(target=repeat, args=(printed,), daemon=True).start()
