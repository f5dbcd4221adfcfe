"""Attempts that this agent has the cluster remove, and what is said of their ends where they leave no word."""

from __future__ import annotations

import logging

from heliograph_agents.launcher import Handle
from heliograph_agents.launchers.kubernetes import names, phases
from heliograph_agents.launchers.kubernetes.api import Api
from heliograph_agents.launchers.kubernetes.phases import Trouble
from heliograph_agents.launchers.kubernetes.view import View
from heliograph_agents.run_directory import ExitRecord

_log = logging.getLogger("heliograph.agent")


class Removals:
    """What was asked to be removed, and why. Threads may share it.

    Args:
        api: The API.
        view: What the watches have seen.
    """

    def __init__(self, api: Api, view: View) -> None:
        self._api, self._view = api, view
        self._why: dict[str, ExitRecord] = {}

    def why(self, name: str) -> ExitRecord | None:
        """Returns what is said of an attempt that is being removed; None when it is not."""
        return self._why.get(name)

    def give_up(self, handle: Handle, trouble: Trouble) -> None:
        """Removes an attempt for what keeps it from starting.

        Raises:
            OSError: The cluster did not take it: the next look asks again.
        """
        _log.error("%s is removed: %s", handle.infrastructure, trouble.hint)
        self.remove(handle, phases.removed(trouble, abandoned=False))

    def remove(self, handle: Handle, record: ExitRecord, *, at_once: bool = False) -> None:
        """Has the cluster end an attempt. What was said of its end first stays.

        Raises:
            OSError: The cluster did not take it.
        """
        self._why.setdefault(handle.infrastructure, record)
        namespace, name = names.namespace_and_name(handle)
        _, pods = self._view.seen(handle.infrastructure)
        self._api.delete("jobs", namespace, name, {"propagationPolicy": "Foreground"})
        if not at_once:
            return
        for pod in pods:
            # Not zero: that would take the pod out of the books while it may still run.
            if "gone" not in pod:
                self._api.delete("pods", namespace, pod["metadata"]["name"], {"gracePeriodSeconds": 1})

    def forget(self, name: str) -> None:
        """The end of an attempt is written down."""
        self._why.pop(name, None)
