"""The ground itself: pods run in real containers, end as real pods end, and the machine is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.figures import Figure
from tests.support.kubernetes.api import Json, Refused
from tests.support.kubernetes.cluster import ROOT, Cluster
from tests.support.kubernetes.servers import PAUSE, TUNABLES
from tests.support.stack import wait_until


def job(name: str, script: str, *, pod: Json | None = None, **container: Any) -> Json:
    """Returns a Job with one container that runs a shell script."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": PAUSE, "command": ["/bin/sh", "-c", script], **container}],
                    **(pod or {}),
                }
            },
        },
    }


def run(cluster: Cluster, namespace: str, body: Json) -> Json:
    """Creates a Job and returns it when it has ended, with its pod under `pod`."""
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    cluster.admin.post(path, body)
    name = body["metadata"]["name"]
    done: Json = cluster.admin.until(
        f"{path}/{name}", lambda one: one if one.get("status", {}).get("conditions") else None, "the Job ends"
    )
    [pod] = cluster.admin.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=job-name%3D{name}")["items"]
    return {**done, "pod": pod}


def test_a_job_runs_in_a_container_and_its_log_is_read(cluster: Cluster, namespace: str, figure: Figure) -> None:
    done = run(cluster, namespace, job("hello", "echo from a pod; echo $0"))
    assert [one["type"] for one in done["status"]["conditions"]] == ["Complete"]
    said = cluster.admin.get(f"/api/v1/namespaces/{namespace}/pods/{done['pod']['metadata']['name']}/log")
    assert said["text"].startswith("from a pod\n")
    figure(f"the cluster was ready after {cluster.seconds:.0f} s")


@pytest.mark.parametrize(
    ("script", "reason", "code"),
    [("exit 7", "Error", 7), ("tail /dev/zero", "OOMKilled", 137)],
)
def test_a_containers_end_is_told(cluster: Cluster, namespace: str, script: str, reason: str, code: int) -> None:
    done = run(cluster, namespace, job("bad", script, resources={"limits": {"memory": "16Mi"}}))
    [ended] = done["pod"]["status"]["containerStatuses"]
    assert (ended["state"]["terminated"]["reason"], ended["state"]["terminated"]["exitCode"]) == (reason, code)
    assert done["status"]["conditions"][0]["reason"] == "BackoffLimitExceeded"


def test_an_image_that_is_not_there_is_waited_for(cluster: Cluster, namespace: str) -> None:
    body = job("none", "true", image="127.0.0.1:1/nothing:1")
    cluster.admin.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", body)

    def reason(pods: Json) -> bool:
        statuses = [one for pod in pods["items"] for one in pod["status"].get("containerStatuses", [])]
        return any(one["state"].get("waiting", {}).get("reason") == "ImagePullBackOff" for one in statuses)

    cluster.admin.until(f"/api/v1/namespaces/{namespace}/pods", reason, "the image is backed off from")


def test_who_has_no_role_may_nothing(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    answer = cluster.admin.post(path, {"spec": {"expirationSeconds": 3600}})
    nobody = cluster.api(answer["status"]["token"])
    with pytest.raises(Refused) as refused:
        nobody.get(f"/api/v1/namespaces/{namespace}/pods")
    assert refused.value.status == 403
    assert cluster.api("nonsense").ask("GET", "/api/v1/pods")[0] == 401


def test_the_machine_keeps_its_settings(cluster: Cluster) -> None:
    """A kubelet sets them on its machine. Its namespace shows it files instead."""
    kubelet = cluster.pids["kubelet"]
    for name, value in TUNABLES.items():
        seen = Path(f"/proc/{kubelet}/root/proc/sys/{name}")
        if seen.exists():
            assert seen.read_text().strip() == value
    assert str(cluster.folder) not in Path("/proc/self/mountinfo").read_text(), "its mounts are its own"
    assert not Path("/var/log/pods").exists()


CHILD = """
import sys
from tests.support.kubernetes.cluster import Cluster
cluster = Cluster()
cluster.namespace("t")
print(cluster.folder, flush=True)
sys.stdin.read()
"""


def test_a_cluster_ends_with_its_tests_however_they_die() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    assert folder.is_dir()
    bridge = (folder / "bridge").read_text()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    wait_until(lambda: not folder.exists(), "its folder is gone", 120)
    assert not Path("/sys/class/net", bridge).exists()
    wait_until(lambda: not holders(folder), "none of its processes is left", 120)


def holders(folder: Path) -> list[str]:
    """Returns the processes that have a folder among their mounts."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and str(folder) in (entry / "mountinfo").read_text():
                found.append(entry.name)
    return found
