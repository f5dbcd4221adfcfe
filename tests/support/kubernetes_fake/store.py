"""The objects of the fake cluster, with what makes an API server one: uids, versions, watches, finalizers, owners."""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str, str]

TRACKING = "batch.kubernetes.io/job-tracking"


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def body(self) -> Json:
        """Returns it as the API has it."""
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
                "reason": self.reason, "code": self.status}  # fmt: skip


def now() -> str:
    """Returns the time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All objects. Threads share it; `changed` is notified of every change."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self._objects: dict[Key, Json] = {}
        self._log: list[tuple[int, str, str, str, Json]] = []
        self._floor = 0

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, kind: str, namespace: str, name: str) -> Json:
        """Returns a copy of an object."""
        with self.changed:
            return copy.deepcopy(self._find(kind, namespace, name))

    def all(self, kind: str, namespace: str = "") -> list[Json]:
        """Returns copies of all objects of a kind."""
        with self.changed:
            return [copy.deepcopy(item) for (one, place, _), item in sorted(self._objects.items())
                    if one == kind and namespace in ("", place)]  # fmt: skip

    def changes(self, kind: str, namespace: str, after: int) -> tuple[list[tuple[str, Json]], int]:
        """Returns what has changed after a version, and the newest version."""
        with self.changed:
            if after < self._floor:
                raise Refusal(410, "Expired", f"too old resource version: {after} ({self._floor})")
            found = [(change, item) for version, change, one, place, item in self._log
                     if version > after and one == kind and place == namespace]  # fmt: skip
            return found, self.version

    def history(self) -> list[tuple[str, Json]]:
        """Returns copies of all objects, with their kinds, as each was after each change."""
        with self.changed:
            return [(kind, copy.deepcopy(item)) for _, _, kind, _, item in self._log]

    def compact(self) -> None:
        """Forgets the past, as etcd does."""
        with self.changed:
            self._floor = self.version + 1
            self.version += 2
            self._log.clear()
            self.changed.notify_all()

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, kind: str, namespace: str, body: Json) -> Json:
        """Creates an object."""
        with self.changed:
            item = copy.deepcopy(body)
            meta = item.setdefault("metadata", {})
            if "name" not in meta:
                meta["name"] = f"{meta.get('generateName', 'x-')}{uuid.uuid4().hex[:5]}"
            if (kind, namespace, meta["name"]) in self._objects:
                raise Refusal(409, "AlreadyExists", f'{kind} "{meta["name"]}" already exists')
            meta |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            item.setdefault("status", {})
            self._put("ADDED", kind, item)
            return copy.deepcopy(item)

    def update(self, kind: str, namespace: str, name: str, change: Callable[[Json], object]) -> Json:
        """Changes an object in place; nothing happens when that leaves it as it was."""
        with self.changed:
            item = copy.deepcopy(self._find(kind, namespace, name))
            before = json.dumps(item, sort_keys=True)
            change(item)
            if json.dumps(item, sort_keys=True) != before:
                self._put("MODIFIED", kind, item)
                self._drop_when_done(kind, namespace, name)
            return copy.deepcopy(item)

    def delete(self, kind: str, namespace: str, name: str, options: Json) -> Json:
        """Deletes an object as its options say: at once, or marked and left to whoever finishes it."""
        with self.changed:
            item = self._find(kind, namespace, name)
            precondition = (options.get("preconditions") or {}).get("uid")
            if precondition and precondition != item["metadata"]["uid"]:
                raise Refusal(409, "Conflict", "the UID in the precondition does not match")
            policy = options.get("propagationPolicy") or "Background"
            grace = options.get("gracePeriodSeconds")

            def mark(found: Json) -> None:
                meta = found["metadata"]
                if kind == "pods":
                    seconds = found["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
                    seconds = min(seconds, meta.get("deletionGracePeriodSeconds", seconds))
                    meta |= {"deletionGracePeriodSeconds": seconds}
                meta.setdefault("deletionTimestamp", now())
                if policy == "Foreground":
                    meta["finalizers"] = sorted({*meta.get("finalizers", []), "foregroundDeletion"})

            waits = kind == "pods" or policy == "Foreground" or item["metadata"].get("finalizers")
            if waits:
                return self.update(kind, namespace, name, mark)
            self._remove(kind, namespace, name)
            details = {"name": name, "kind": kind, "uid": item["metadata"]["uid"]}
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def finish(self, kind: str, namespace: str, name: str) -> None:
        """Takes an object away whose deletion is done, unless a finalizer keeps it."""
        with self.changed:
            if (kind, namespace, name) in self._objects:
                self.update(kind, namespace, name, lambda item: item["metadata"].update(heliographDone=True))
                self._drop_when_done(kind, namespace, name)

    def orphans(self) -> Iterator[tuple[str, Json, Json | None]]:
        """Yields each object with owners and the first of them that is there; None when all are gone."""
        with self.changed:
            by_uid = {item["metadata"]["uid"]: item for item in self._objects.values()}
            for (kind, _, _), item in list(self._objects.items()):
                owners = item["metadata"].get("ownerReferences")
                if owners:
                    yield (
                        kind,
                        copy.deepcopy(item),
                        next((by_uid[o["uid"]] for o in owners if o["uid"] in by_uid), None),
                    )

    # --- within ------------------------------------------------------------------------------------------------------

    def _find(self, kind: str, namespace: str, name: str) -> Json:
        try:
            return self._objects[kind, namespace, name]
        except KeyError:
            raise Refusal(404, "NotFound", f'{kind} "{name}" not found') from None

    def _put(self, change: str, kind: str, item: Json) -> None:
        self.version += 1
        meta = item["metadata"]
        meta["resourceVersion"] = str(self.version)
        self._objects[kind, meta["namespace"], meta["name"]] = item
        self._note(change, kind, item)

    def _note(self, change: str, kind: str, item: Json) -> None:
        shown = copy.deepcopy(item)
        shown["metadata"].pop("heliographDone", None)
        self._log.append((self.version, change, kind, item["metadata"]["namespace"], shown))
        self.changed.notify_all()

    def _remove(self, kind: str, namespace: str, name: str) -> None:
        item = self._objects.pop((kind, namespace, name))
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._note("DELETED", kind, item)

    def _drop_when_done(self, kind: str, namespace: str, name: str) -> None:
        item = self._objects.get((kind, namespace, name))
        if item is None:
            return
        meta = item["metadata"]
        done = meta.get("heliographDone") or kind != "pods"
        if meta.get("deletionTimestamp") and done and not meta.get("finalizers"):
            self._remove(kind, namespace, name)
