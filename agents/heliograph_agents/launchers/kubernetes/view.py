"""What was last seen of this agent's Jobs and pods: kept by lists and watches, read by everybody.

Lists are the truth, and replace what is here. What a watch says comes sooner. A pod that is deleted stays, marked
`gone`, as it was last seen: how it ended is often known from nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from heliograph_agents.launchers.kubernetes.names import infrastructure

Json = dict[str, Any]

MAX_GONE = 2000
"""Most deleted pods that are remembered."""


class View:
    """Jobs and pods by the attempt's name in the infrastructure. Threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[str, Json] = {}
        self._pods: dict[str, dict[str, Json]] = {}
        self._graves: dict[str, str] = {}

    def jobs(self) -> list[Json]:
        """Returns all Jobs."""
        with self._changed:
            return list(self._jobs.values())

    def seen(self, name: str) -> tuple[Json | None, list[Json]]:
        """Returns the Job of an attempt and its pods, those that are gone too."""
        with self._changed:
            return self._jobs.get(name), [*self._pods.get(name, {}).values()]

    def wait(self, seconds: float) -> None:
        """Waits for any change."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Ends all waits."""
        with self._changed:
            self._changed.notify_all()

    def replace(self, kind: str, namespace: str, items: Iterable[Json]) -> None:
        """Takes what a list has found as all there is in a namespace."""
        beginning = infrastructure(namespace, "")
        with self._changed:
            if kind == "jobs":
                self._jobs = {name: job for name, job in self._jobs.items() if not name.startswith(beginning)}
                self._jobs |= {_name(job): job for job in items}
            else:
                found = {_uid(pod): pod for pod in items}
                for name in [name for name in self._pods if name.startswith(beginning)]:
                    for uid in [uid for uid in self._pods[name] if uid not in found]:
                        self._bury(name, self._pods[name][uid])
                for pod in found.values():
                    if name := owner_of(pod):
                        self._put(name, pod)
            self._changed.notify_all()

    def note(self, kind: str, change: str, item: Json) -> str:
        """Takes one change. Returns the name of the attempt that it is about; empty when it is about none."""
        with self._changed:
            name = _name(item) if kind == "jobs" else owner_of(item)
            if not name:
                return ""
            if kind == "jobs" and change == "DELETED":
                self._jobs.pop(name, None)
            elif kind == "jobs":
                self._jobs[name] = item
            elif change == "DELETED":
                self._bury(name, item)
            else:
                self._put(name, item)
            self._changed.notify_all()
            return name

    def forget(self, name: str) -> None:
        """Drops what is known of deleted pods of an attempt."""
        with self._changed:
            for uid in [uid for uid, pod in self._pods.get(name, {}).items() if "gone" in pod]:
                self._drop(uid)

    def _put(self, name: str, pod: Json) -> None:
        """Takes a pod as it is: also one that a list, older than this, did not know yet."""
        self._graves.pop(_uid(pod), None)
        self._pods.setdefault(name, {})[_uid(pod)] = pod

    def _bury(self, name: str, pod: Json) -> None:
        self._pods.setdefault(name, {})[_uid(pod)] = {**pod, "gone": True}
        self._graves[_uid(pod)] = name
        while len(self._graves) > MAX_GONE:
            self._drop(next(iter(self._graves)))

    def _drop(self, uid: str) -> None:
        name = self._graves.pop(uid)
        del self._pods[name][uid]
        if not self._pods[name]:
            del self._pods[name]


def owner_of(pod: Mapping[str, Any]) -> str:
    """Returns the name, in the infrastructure, of the attempt whose Job made a pod; empty when no Job did."""
    meta = pod.get("metadata") or {}
    for owner in meta.get("ownerReferences") or ():
        if owner.get("kind") == "Job":
            return infrastructure(str(meta.get("namespace")), str(owner.get("name")))
    return ""


def _name(job: Mapping[str, Any]) -> str:
    return infrastructure(str(job["metadata"].get("namespace")), str(job["metadata"].get("name")))


def _uid(item: Mapping[str, Any]) -> str:
    return str(item["metadata"].get("uid"))
