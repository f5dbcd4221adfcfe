"""The offers that are being made: each as soon as the cluster has a pod for it, however long that takes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

from heliograph.engine.codes import FailureCode, LaunchDelay
from heliograph_agents.launcher import Handle
from heliograph_agents.launchers.kubernetes import names, offer, phases
from heliograph_agents.launchers.kubernetes.api import Api, ApiRefusedError
from heliograph_agents.launchers.kubernetes.phases import Patience, Trouble
from heliograph_agents.launchers.kubernetes.removal import Removals
from heliograph_agents.launchers.kubernetes.view import View
from heliograph_agents.launchers.records import Records
from heliograph_agents.run_directory import LaunchRecord

_log = logging.getLogger("heliograph.agent")

OFFER_SECONDS = 10.0
"""How long a launch waits for its pod; after that the offer is made whenever the pod comes."""

LOOK_SECONDS = 30.0
"""How long a pod is waited for before it is asked whether its Job may still get one."""

PAUSE_SECONDS = 2.0


class Offering:
    """Makes offers. Threads may share it, one to an attempt.

    Args:
        api: The API.
        view: What the watches have seen.
        records: The attempts' folders.
        removals: Removes attempts whose Secret is refused.
        closed: Set when the agent leaves; whoever sets it wakes the view.
    """

    def __init__(self, api: Api, view: View, records: Records, removals: Removals, closed: threading.Event) -> None:
        self._api, self._view, self._records, self._removals, self._closed = api, view, records, removals, closed
        self._under_way: set[str] = set()

    def is_under_way(self, name: str) -> bool:
        """True while an offer may still be made."""
        return name in self._under_way

    def begin(self, handle: Handle, job: dict[str, Any], record: LaunchRecord, token: str) -> None:
        """Makes the offer of a Job, or goes on waiting for its pod on a thread.

        Args:
            handle: The attempt.
            job: Its Job.
            record: What it is to do.
            token: Its run token.
        """
        name = handle.infrastructure
        self._under_way.add(name)
        if self._make(handle, job, record, token, OFFER_SECONDS):
            self._under_way.discard(name)
            return

        def go_on() -> None:
            try:
                self._make(handle, job, record, token, float("inf"))
            finally:
                self._under_way.discard(name)

        threading.Thread(target=go_on, name=f"heliograph-offer-{name}", daemon=True).start()

    def _make(self, handle: Handle, job: dict[str, Any], record: LaunchRecord, token: str, seconds: float) -> bool:
        """Makes the offer as soon as there is a pod. Returns False when there may be one after that time."""
        limit = time.monotonic() + seconds
        while not self._closed.is_set():
            now = time.monotonic()
            if now > limit:
                return False
            try:
                until = min(limit, now + LOOK_SECONDS)
                holder = offer.await_pod(self._api, self._view, job, until, self._closed.is_set)
                if holder:
                    # Not made, when there is one: a lost answer was to this agent, or a withdrawal came before.
                    offer.make(self._api, job, offer.contents(record, token, holder))
                    self._records.mark(handle, "started")
                    return True
                if until < limit and not self._is_wanted(handle, job):
                    return True
            except ApiRefusedError as error:
                hint = f"its Secret: {error}"
                trouble = Trouble(FailureCode.LAUNCH_FAILED, hint, Patience.NONE, LaunchDelay.PERMISSION)
                with contextlib.suppress(OSError):  # what cannot be removed now is by the next look
                    self._removals.give_up(handle, trouble)
                return True
            except OSError as error:
                _log.warning("the Secret of %s cannot be made, trying again: %s", handle.infrastructure, error)
                self._closed.wait(PAUSE_SECONDS)
        return True

    def _is_wanted(self, handle: Handle, job: dict[str, Any]) -> bool:
        """True while a Job is there and may still get its pod."""
        found = self._api.get("jobs", *names.namespace_and_name(handle))
        if found is None or found["metadata"]["uid"] != job["metadata"]["uid"]:
            return False
        return not found["metadata"].get("deletionTimestamp") and not phases.is_over(found)
