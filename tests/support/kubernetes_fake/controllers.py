"""The controllers of the fake cluster: Jobs make pods and get their conditions, what has lost its owner goes.

In two forms, since they differ where it hurts: `1.20`, whose Jobs make another pod as soon as one is being deleted and
get one condition, and `1.36`, whose Jobs count such a pod as failed and get `SuccessCriteriaMet` or `FailureTarget`
before the end.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from tests.support.kubernetes_fake.store import TRACKING, Json, Refusal, Store, now


class Controllers:
    """Job controller and garbage collector.

    Args:
        store: The objects.
        old: True for the form of 1.20.
    """

    def __init__(self, store: Store, *, old: bool) -> None:
        self._store, self._old = store, old
        self.refuse_pods = ""
        self.hold_pods = False
        self.pods_made: dict[str, int] = {}

    def step(self) -> None:
        """Does what is to be done now."""
        with self._store.changed:
            self._collect()
            for job in self._store.all("jobs"):
                self._job(job)

    def _collect(self) -> None:
        for kind, item, owner in list(self._store.orphans()):
            meta = item["metadata"]
            foreground = owner is not None and "foregroundDeletion" in (owner["metadata"].get("finalizers") or ())
            if (owner is None or foreground) and not meta.get("deletionTimestamp"):
                self._store.delete(kind, meta["namespace"], meta["name"], {})
            if owner is None or owner["metadata"].get("deletionTimestamp"):
                self._untrack(item)
        owners = {one["uid"] for _, item, _ in self._store.orphans() for one in item["metadata"]["ownerReferences"]}
        for job in self._store.all("jobs"):
            meta = job["metadata"]
            if meta.get("deletionTimestamp") and meta["uid"] not in owners:
                self._store.update("jobs", meta["namespace"], meta["name"],
                                   lambda found: found["metadata"].update(finalizers=[]))  # fmt: skip

    def _untrack(self, item: Json) -> None:
        meta = item["metadata"]
        if TRACKING in (meta.get("finalizers") or ()):
            with contextlib.suppress(Refusal):
                self._store.update(
                    "pods", meta["namespace"], meta["name"], lambda found: found["metadata"].update(finalizers=[])
                )

    def _job(self, job: Json) -> None:
        meta, status = job["metadata"], job["status"]
        if meta.get("deletionTimestamp") or _ended(status):
            return
        pods = [pod for pod in self._store.all("pods", meta["namespace"])
                if any(one["uid"] == meta["uid"] for one in pod["metadata"].get("ownerReferences", ()))]  # fmt: skip
        good = [pod for pod in pods if pod["status"].get("phase") == "Succeeded"]
        bad = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
        if not self._old:
            bad += [pod for pod in pods if pod["metadata"].get("deletionTimestamp") and pod not in bad + good]
        active = [pod for pod in pods if pod not in good + bad and not pod["metadata"].get("deletionTimestamp")]
        if good:
            self._condition(job, "SuccessCriteriaMet", "Complete", "CompletionsReached", pods)
        elif len(bad) > job["spec"].get("backoffLimit", 6) or (not self._old and self._lost(job, pods)):
            self._condition(job, "FailureTarget", "Failed", "BackoffLimitExceeded", pods)
        elif not active and not self.hold_pods:
            self._make_pod(job)

    def _lost(self, job: Json, pods: list[Json]) -> bool:
        return not pods and self.pods_made.get(job["metadata"]["uid"], 0) > 0

    def _condition(self, job: Json, first: str, last: str, reason: str, pods: list[Json]) -> None:
        meta = job["metadata"]
        over = [pod for pod in pods if pod["status"].get("phase") in ("Succeeded", "Failed")]

        def change(found: Json) -> None:
            conditions: list[Json] = found["status"].setdefault("conditions", [])
            if not self._old and not any(one["type"] == first for one in conditions):
                conditions.append({"type": first, "status": "True", "reason": reason, "lastTransitionTime": now()})
            elif self._old or len(over) == len(pods):
                conditions.append({"type": last, "status": "True", "reason": reason, "lastTransitionTime": now()})

        self._store.update("jobs", meta["namespace"], meta["name"], change)
        for pod in over:
            self._untrack(pod)

    def _make_pod(self, job: Json) -> None:
        meta, template = job["metadata"], job["spec"]["template"]
        if self.refuse_pods:
            self.event(job, "Job", "FailedCreate", f"Error creating: {self.refuse_pods}")
            return
        labels = {**template["metadata"].get("labels", {}), "job-name": meta["name"], "controller-uid": meta["uid"]}
        body: Json = {
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": f"{meta['name'][:57]}-{uuid.uuid4().hex[:5]}",
                "labels": labels,
                "annotations": dict(template["metadata"].get("annotations", {})),
                "finalizers": [] if self._old else [TRACKING],
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"],
                                     "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }  # fmt: skip
        self.pods_made[meta["uid"]] = self.pods_made.get(meta["uid"], 0) + 1
        made = self._store.create("pods", meta["namespace"], body)
        self.event(job, "Job", "SuccessfulCreate", f"Created pod: {made['metadata']['name']}", severity="Normal")

    def event(self, about: Json, kind: str, reason: str, message: str, *, severity: str = "Warning") -> None:
        """Writes an event; one that is there already is counted."""
        meta = about["metadata"]
        name = f"{meta['name'][:40]}.{reason.lower()}"
        try:
            self._store.get("events", meta["namespace"], name)
        except Refusal:
            what: Json = {"kind": kind, "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
            self._store.create("events", meta["namespace"], {
                "kind": "Event", "apiVersion": "v1",
                "metadata": {"name": name}, "type": severity, "reason": reason, "message": message,
                "lastTimestamp": now(), "involvedObject": what,
            })  # fmt: skip


def _ended(status: dict[str, Any]) -> bool:
    return any(one["type"] in ("Complete", "Failed") for one in status.get("conditions", ()))
