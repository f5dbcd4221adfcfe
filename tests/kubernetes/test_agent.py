"""Agents started by their command on a real cluster: the demo from a private registry, deaths, cancels, rights."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from examples.covid.server import CaseServer
from tests.contract.launchers.cluster_ground import ACCOUNT, account_token
from tests.support.figures import Figure
from tests.support.kubernetes.api import Json
from tests.support.kubernetes.cluster import Cluster
from tests.support.registry import Registry
from tests.support.seaweed import S3Server
from tests.support.stack import Stack, wait_until
from tests.support.tap import Tap

from heliograph.engine.codes import StateCode

ROOT = Path(__file__).resolve().parents[2]

PLACED = """

from heliograph.engine.results import S3Result
from heliograph.run_configs import KubernetesRun
from heliograph.storage import S3

flow.storage = S3({bucket!r})
flow.result = S3Result({bucket!r})
flow.run_config = KubernetesRun(image={image!r}, image_pull_secrets={secrets!r})
"""

HOLD = """
import os, pathlib, time
from heliograph import Flow, Parameter, task

@task
def hold(shared):
    shared = pathlib.Path(shared)
    with (shared / "begun").open("a") as file:
        file.write(f"{{time.time()}}\\n")
    while not (shared / "open").exists():
        time.sleep(0.05)

with Flow("hold") as flow:
    hold(Parameter("shared"))
"""


class Place:
    """A control plane, a namespace for its agent, and a bucket.

    Attributes:
        stack: The control plane and its agents.
        shared: A folder that pods see at the same path.
    """

    def __init__(self, folder: Path, cluster: Cluster, namespace: str, s3: S3Server) -> None:
        self.cluster, self.namespace, self.s3 = cluster, namespace, s3
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.bucket = s3.new_bucket(f"flows-{uuid.uuid4().hex[:8]}")
        self.stack = Stack(folder, environment={**s3.environment, "HELIOGRAPH__CLIENT__INSECURE": "true"})
        printed = self.stack.cli("agent", "kubernetes", "rbac", "--namespace", namespace).stdout
        self.apply(printed)
        user = cluster.api(account_token(cluster.admin, namespace))
        config = cluster.kubeconfig(folder / "kubeconfig", user, namespace)
        template = folder / "template.yaml"
        template.write_text(json.dumps(self._template()))
        self.secret("place", {name: value for name, value in s3.environment.items() if name.startswith("AWS_")})
        self.stack.start_control_plane()
        self.relay = Tap(self.stack.port, cluster.gateway)
        self.stack.agent_args = [
            "--type", "kubernetes", "--namespace", namespace, "--kubeconfig", str(config), "--job-template",
            str(template), "--advertise-address", f"{cluster.gateway}:{self.relay.port}",
        ]  # fmt: skip

    def _template(self) -> Json:
        """Returns a pod that reaches the parts of the test on loopback, and knows the bucket's keys from a Secret."""
        flow = {
            "name": "flow",
            "envFrom": [{"secretRef": {"name": "place"}}],
            "volumeMounts": [{"name": "shared", "mountPath": str(self.shared)}],
        }
        volume = {"name": "shared", "hostPath": {"path": str(self.shared)}}
        return {"spec": {"hostNetwork": True, "containers": [flow], "volumes": [volume]}}

    def apply(self, printed: str) -> None:
        """Applies what the command prints for `kubectl apply`."""
        import yaml
        from tests.contract.launchers.cluster_ground import apply

        apply(self.cluster.admin, list(yaml.safe_load_all(printed)))

    def secret(self, name: str, values: dict[str, str], kind: str = "Opaque") -> None:
        """Makes a Secret."""
        body = {"metadata": {"name": name}, "type": kind, "stringData": values}
        self.cluster.admin.post(f"/api/v1/namespaces/{self.namespace}/secrets", body)

    def register(self, source: str, image: str, secrets: list[str] | None = None) -> None:
        """Registers a flow of this place."""
        self.stack.register(source + PLACED.format(bucket=self.bucket, image=image, secrets=secrets or []))

    def begun(self) -> list[float]:
        """Returns when the held task began, each time that it did."""
        file = self.shared / "begun"
        return [float(line) for line in file.read_text().split()] if file.exists() else []

    def jobs(self) -> list[Json]:
        """Returns the Jobs of the namespace."""
        found: list[Json] = self.cluster.admin.get(f"/apis/batch/v1/namespaces/{self.namespace}/jobs")["items"]
        return found


@pytest.fixture
def place(tmp_path: Path, cluster: Cluster, namespace: str, s3_server: S3Server) -> Iterator[Place]:
    """A control plane, and what an agent needs."""
    made = Place(tmp_path, cluster, namespace, s3_server)
    try:
        with made.relay:
            yield made
    finally:
        made.stack.stop()
        cluster.admin.delete(f"/api/v1/namespaces/{namespace}")


def test_the_demo_runs_in_a_pod_from_a_private_registry(
    place: Place, cluster_image: str, protected_registry: Registry
) -> None:
    name = f"{protected_registry.address}/covid-{uuid.uuid4().hex[:8]}"
    login = {"username": protected_registry.user, "password": protected_registry.password}
    client = place.cluster.docker(timeout=300)
    try:
        client.images.get(cluster_image).tag(name, "1")
        told = list(client.images.push(name, "1", stream=True, decode=True, auth_config=login))
        assert not any("error" in line for line in told), told
        client.images.remove(f"{name}:1")
    finally:
        client.close()
    token = base64.b64encode(f"{protected_registry.user}:{protected_registry.password}".encode()).decode()
    logins = json.dumps({"auths": {protected_registry.address: {"auth": token}}})
    place.secret("registry", {".dockerconfigjson": logins}, "kubernetes.io/dockerconfigjson")
    place.stack.start_agent()
    place.register((ROOT / "examples" / "covid" / "flow.py").read_text(), f"{name}:1", ["registry"])
    with CaseServer() as cases:
        run = place.stack.run("covid-cases", f"url={cases.url}", f"bucket={place.bucket}")
        place.stack.wait_for(run, StateCode.SUCCESS, seconds=300)
    body = place.s3.client().get_object(Bucket=place.bucket, Key="covid-germany.csv")["Body"].read().decode()
    assert body.startswith("year_month,cases,deaths\n2019-12,")


def test_an_agent_that_is_killed_finds_its_pods_again(place: Place, cluster_image: str) -> None:
    agent = place.stack.start_agent()
    place.register(HOLD.format(), cluster_image)
    run = place.stack.run("hold", f"shared={place.shared}")
    wait_until(place.begun, "the flow runs in its pod", 120)
    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    place.stack.start_agent()
    (place.shared / "open").touch()
    place.stack.wait_for(run, StateCode.SUCCESS, seconds=120)
    assert len(place.begun()) == 1
    assert len(place.jobs()) == 1


def test_a_cancelled_run_ends_in_its_pod(place: Place, cluster_image: str) -> None:
    place.stack.start_agent()
    place.register(HOLD.format(), cluster_image)
    run = place.stack.run("hold", f"shared={place.shared}")
    wait_until(place.begun, "the flow runs in its pod", 120)
    place.stack.cli("runs", "cancel", run)
    place.stack.wait_for(run, StateCode.CANCELLED, seconds=120)
    path = f"/api/v1/namespaces/{place.namespace}/pods"

    def ended(pods: Json) -> bool:
        return all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods["items"])

    place.cluster.admin.until(path, ended, "its pod has ended")


def test_how_long_a_run_takes_to_its_first_line(place: Place, cluster_image: str, figure: Figure) -> None:
    place.stack.start_agent()
    place.register(HOLD.format(), cluster_image)
    (place.shared / "open").touch()
    took: list[float] = []

    def more_than(count: int) -> bool:
        return len(place.begun()) > count

    for number in range(5):
        created = time.time()
        run = place.stack.run("hold", f"shared={place.shared}")
        wait_until(partial(more_than, number), "the flow runs in its pod", 120)
        took.append(place.begun()[number] - created)
        place.stack.wait_for(run, StateCode.SUCCESS, seconds=120)
    figure(f"first line of a task in a pod {min(took):.1f} to {max(took):.1f} s after `heliograph run` was called")


@pytest.mark.parametrize(
    ("group", "resource", "verb"),
    [
        ("batch", "jobs", "create"), ("batch", "jobs", "list"), ("batch", "jobs", "delete"), ("", "pods", "list"),
        ("", "secrets", "create"),
    ],
)  # fmt: skip
def test_each_right_of_the_role_is_needed(
    place: Place, cluster_image: str, group: str, resource: str, verb: str
) -> None:
    """Without one the agent says which: before it takes a run, where it can see it, else when it needs it."""
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{place.namespace}/roles/{ACCOUNT}"
    role = place.cluster.admin.get(path)
    for rule in role["rules"]:
        if group in rule["apiGroups"] and resource in rule["resources"]:
            rule["verbs"] = [one for one in rule["verbs"] if one != verb]
    place.cluster.admin.call("PUT", path, role)
    place.stack.agent_args += ["--keep-success", "0"]
    agent = place.stack.start_agent(wait=False)
    if verb == "list":
        assert agent.wait(120) != 0, "it takes no run"
        assert "heliograph agent kubernetes rbac" in place.stack.log("agent-1")
        return
    place.register(HOLD.format(), cluster_image)
    (place.shared / "open").touch()
    run = place.stack.run("hold", f"shared={place.shared}")
    word = f'cannot {verb} resource "{resource}"'
    wait_until(lambda: word in place.stack.log("agent-1"), "the agent says what it may not", 180)
    if verb == "delete":
        place.stack.wait_for(run, StateCode.SUCCESS)
    else:
        assert not place.begun()
