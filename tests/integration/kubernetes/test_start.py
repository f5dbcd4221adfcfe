"""An agent's command: its options, its way to the cluster, and what it says when there is none or it may do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tests.support.kubernetes_fake import fake_cluster

from heliograph.exceptions import ConfigurationError, InvalidArgumentError, UnavailableError
from heliograph_agents.cli import agent
from heliograph_agents.host import Folders
from heliograph_agents.launchers.kinds import Ground, defaults, kind
from heliograph_agents.launchers.kubernetes.kind import read_options
from heliograph_agents.launchers.kubernetes.launcher import KubernetesLauncher
from heliograph_agents.run_directory import RunSettings


def ground(folder: Path, address: str = "control-plane.test:4480", **options: Any) -> Ground:
    """Returns what the command makes a launcher from."""
    places = Folders(folder, folder / "agent", folder / "runs", folder / "cache")
    return Ground(RunSettings(address, "a", str(folder), str(folder)), places, defaults(kind("kubernetes")) | options)


async def test_the_command_makes_a_launcher_that_looks_into_its_namespaces(tmp_path: Path) -> None:
    with fake_cluster(tmp_path / "cluster", namespaces=("flows", "more")) as cluster:
        options = {"kubeconfig": cluster.kubeconfig(), "context": "test", "namespaces": ("flows", "more")}
        made = kind("kubernetes").make(ground(tmp_path, **options))
        await made.open(lambda _: None)
        assert await made.list() == []
        await made.close()
        looked = {path.split("/")[5] for _, path, _, _ in cluster.server.requests if "/batch/" in path}
        assert looked == {"flows", "more"}
        cluster.server.grant("agent-token", [])
        powerless = kind("kubernetes").make(ground(tmp_path, **options))
        with pytest.raises(UnavailableError, match="does not let this agent look") as caught:
            await powerless.open(lambda _: None)
        assert "heliograph agent kubernetes rbac" in str(caught.value.hint)
        await powerless.close()


async def test_a_cluster_that_is_not_there_is_said_not_to_be(tmp_path: Path) -> None:
    with fake_cluster(tmp_path / "cluster") as cluster:
        path = cluster.kubeconfig()
    made = kind("kubernetes").make(ground(tmp_path, kubeconfig=path, api_timeout=1.0))
    with pytest.raises(UnavailableError, match="does not answer"):
        await made.open(lambda _: None)
    await made.close()
    with pytest.raises(ConfigurationError, match="no way to a cluster"):
        kind("kubernetes").make(ground(tmp_path, kubeconfig=str(tmp_path / "none")))


def test_pods_must_reach_the_control_plane(tmp_path: Path) -> None:
    with fake_cluster(tmp_path / "cluster") as cluster:
        options = {"kubeconfig": cluster.kubeconfig()}
        with pytest.raises(InvalidArgumentError, match="that is the pod itself"):
            kind("kubernetes").make(ground(tmp_path, "127.0.0.1:4480", **options))
        with pytest.raises(InvalidArgumentError, match="pods would with TLS"):
            kind("kubernetes").make(ground(tmp_path, "127.0.0.1:4480", advertise_address="cp:4480", **options))
        made = kind("kubernetes").make(ground(tmp_path, "plane.test:4480", advertise_address="cp:4480", **options))
        assert isinstance(made, KubernetesLauncher)
        assert made._settings.address == "cp:4480"


def test_options_are_read_as_they_are_shown(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("spec: {template: {spec: {hostname: here}}}")
    found = read_options({"job_template": str(tmp_path / "job.yaml"), "cpu": "500m", "namespaces": ("a", "b", "a")})
    assert found.template["spec"]["template"]["spec"] == {"hostname": "here"}
    assert (found.namespaces, found.keep_failed_seconds, found.rate) == (("a", "b"), 3600.0, 10.0)
    (tmp_path / "list.yaml").write_text("- 1")
    for wrong in ({"cpu": "many"}, {"job_template": str(tmp_path / "none")},
                  {"job_template": str(tmp_path / "list.yaml")}):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            read_options(wrong)
    shown = CliRunner().invoke(agent, ["start", "--type", "kubernetes", "--help"]).output
    assert "--image-grace" in shown
    assert "--base-url" not in shown


def test_the_rights_are_printed_for_each_namespace_and_read_no_secret() -> None:
    shown = CliRunner().invoke(agent, ["kubernetes", "rbac", "--namespace", "a", "--namespace", "b"]).output
    objects = list(yaml.safe_load_all(shown))
    assert [(one["kind"], one["metadata"]["namespace"]) for one in objects] == [
        ("ServiceAccount", "a"), ("Role", "a"), ("RoleBinding", "a"), ("Role", "b"), ("RoleBinding", "b"),
    ]  # fmt: skip
    for role in (objects[1], objects[3]):
        verbs = {verb for rule in role["rules"] if "secrets" in rule["resources"] for verb in rule["verbs"]}
        assert verbs == {"create", "delete"}
    least = CliRunner().invoke(agent, ["kubernetes", "rbac", "--namespace", "a", "--least"]).output
    assert "events" not in least
    assert "log" not in least
