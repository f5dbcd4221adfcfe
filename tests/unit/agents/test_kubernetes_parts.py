"""Parts of the Kubernetes launcher by themselves: its view, its watches, what it removes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from heliograph_agents.launcher import BundleSpec, Handle, RunSpec
from heliograph_agents.launchers.kubernetes import names
from heliograph_agents.launchers.kubernetes.cleaning import clean
from heliograph_agents.launchers.kubernetes.options import KubernetesOptions
from heliograph_agents.launchers.kubernetes.view import View
from heliograph_agents.launchers.kubernetes.watch import Watch
from heliograph_agents.launchers.records import Records
from heliograph_agents.run_directory import ExitRecord

HANDLE = Handle("projects/p/flowRuns/r1", 1, "flows/helio-r1-1")
JOB = {"metadata": {"namespace": "flows", "name": "helio-r1-1", "uid": "j1"}}


@dataclass
class Double:
    """An API that has nothing, and whose watches end as soon as they begin."""

    deleted: list[str] = field(default_factory=list)
    watched: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def list(self, *_: Any, **__: Any) -> tuple[list[Any], str]:
        return [], "1"

    def watch(self, *_: Any, **__: Any) -> Double:
        self.watched.release()
        return self

    def changes(self) -> Iterator[Any]:
        return iter(())

    def close(self) -> None:
        pass

    def delete(self, kind: str, *_: Any) -> bool:
        self.deleted.append(kind)
        return True


def test_a_watch_that_is_ended_at_once_is_not_begun_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    api = Double()
    watch = Watch(cast("Any", api), "jobs", "flows", "", lambda *_: None, lambda *_: None)
    with caplog.at_level(logging.WARNING, "heliograph.agent"):
        watch.start()
        assert api.watched.acquire(timeout=60)
        assert api.watched.acquire(timeout=60), "it is tried again"
        watch.stop()
    assert "jobs in flows cannot be watched: the server ends the stream at once" in caplog.text


def test_an_attempt_stays_forgotten_for_as_long_as_the_cluster_takes_to_remove_its_job(tmp_path: Path) -> None:
    api, view, records = Double(), View(), Records(tmp_path)
    records.plan(HANDLE)
    records.settle(HANDLE, ExitRecord())
    records.forget(HANDLE)
    view.note("jobs", "ADDED", cast("Any", JOB))
    options = KubernetesOptions(keep_failed_seconds=0.0)
    clean(cast("Any", api), view, records, options)
    assert api.deleted == ["jobs"]
    assert records.is_forgotten(HANDLE), "the next list would take it for a run that nobody knows"
    leaving = {"metadata": {**JOB["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    view.note("jobs", "MODIFIED", cast("Any", leaving))
    clean(cast("Any", api), view, records, options)
    assert api.deleted == ["jobs"], "asked once"
    view.note("jobs", "DELETED", cast("Any", leaving))
    clean(cast("Any", api), view, records, options)
    assert list(tmp_path.iterdir()) == []


def pod(uid: str, **status: Any) -> dict[str, Any]:
    owner = {"kind": "Job", "name": "helio-r1-1"}
    return {"metadata": {"namespace": "flows", "name": uid, "uid": uid, "ownerReferences": [owner]}, "status": status}


def test_a_pod_is_seen_once_however_lists_and_watches_cross() -> None:
    view = View()
    view.note("pods", "ADDED", pod("a"))
    view.replace("pods", "flows", [])  # it was asked for before the pod was there
    assert ["gone" in one for one in view.seen(HANDLE.infrastructure)[1]] == [True]
    view.note("pods", "MODIFIED", pod("a", phase="Running"))
    [seen] = view.seen(HANDLE.infrastructure)[1]
    assert "gone" not in seen
    assert seen["status"] == {"phase": "Running"}


def test_deleted_pods_are_remembered_until_the_end_is_known_and_the_oldest_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("heliograph_agents.launchers.kubernetes.view.MAX_GONE", 2)
    view = View()
    for uid in "abc":
        view.note("pods", "ADDED", pod(uid))
        view.note("pods", "DELETED", pod(uid))
    view.note("pods", "ADDED", pod("d"))
    assert [one["metadata"]["uid"] for one in view.seen(HANDLE.infrastructure)[1]] == ["b", "c", "d"]
    view.forget(HANDLE.infrastructure)
    assert [one["metadata"]["uid"] for one in view.seen(HANDLE.infrastructure)[1]] == ["d"]


@pytest.mark.parametrize("run_id", ["0193", "x" * 64, "ends_"])
def test_pods_are_looked_for_by_the_label_that_they_have(run_id: str) -> None:
    bundle = BundleSpec("local", "/x", "", "", False, "", "")
    spec = RunSpec(f"projects/p/flowRuns/{run_id}", "projects/p/flows/f/versions/1", "", 1, 1, "{}", bundle, "", 0)
    labels = names.labels_of(spec, "pool")
    for one in names.selector_of(Handle(spec.flow_run, 1, ""), "pool").split(","):
        name, _, value = one.partition("=")
        assert labels[name] == value
