"""The way to a cluster's API under faults: tries, Retry-After, watches that are cut or too old, pages, rights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.integration.kubernetes.conftest import CREDENTIALS, Scene, spec_of
from tests.support.figures import Figure
from tests.support.kubernetes_fake import Cluster, fake_cluster

from heliograph.client.cluster import find_access
from heliograph.run_configs import KubernetesRun
from heliograph_agents.launcher import ExitKind, Liveness
from heliograph_agents.launchers.kubernetes import watch
from heliograph_agents.launchers.kubernetes.api import Api, ApiAwayError, ApiRefusedError
from heliograph_agents.launchers.kubernetes.rbac import OPTIONAL_RULES, RULES


def api_of(cluster: Cluster, **options: Any) -> Api:
    """Returns an agent's API."""
    return Api(find_access(cluster.kubeconfig()), **{"rate": 500.0, "burst": 500, "timeout_seconds": 5.0, **options})


@pytest.mark.parametrize("how", [429, 500, 503, "before"])
def test_trouble_that_passes_is_not_noticed(tmp_path: Path, how: int | str) -> None:
    with fake_cluster(tmp_path) as cluster:
        fault = cluster.server.plant("GET", "/jobs", how, 2, headers=(("Retry-After", "0"),))
        assert api_of(cluster).list("jobs", "flows")[0] == []
        assert fault.times == 0


def test_what_stays_is_told(tmp_path: Path) -> None:
    with fake_cluster(tmp_path) as cluster:
        api = api_of(cluster)
        cluster.server.plant("GET", "/jobs", 429, 99, headers=(("Retry-After", "3600"),))
        with pytest.raises(ApiAwayError, match="429"):
            api.list("jobs", "flows")
        asked = len(cluster.server.requests)
        assert asked == 1, "who asks to be left alone for an hour is left alone"
        cluster.server.faults.clear()
        cluster.server.plant("GET", "/jobs", "html", 99)
        with pytest.raises(ApiAwayError, match="no JSON"):
            api.list("jobs", "flows")
        cluster.server.faults.clear()
        with pytest.raises(ApiRefusedError) as caught:
            api.list("jobs", "elsewhere")
        assert caught.value.status == 403


def test_long_lists_come_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph_agents.launchers.kubernetes.api.PAGE", 3)
    with fake_cluster(tmp_path) as cluster:
        for number in range(8):
            cluster.store.create("secrets", "flows", {"metadata": {"name": f"s{number}"}})
        cluster.server.grant("agent-token", None)
        found, _ = api_of(cluster).list("secrets", "flows")
        assert len(found) == 8
        cluster.server.plant("GET", "continue=3", 410, 1)
        assert len(api_of(cluster).list("secrets", "flows")[0]) == 8, "a list that grew too old is read again"


async def ends_after(scene: Scene, what: Any) -> None:
    """Has something happen to the watches; a pod ends afterwards, and the agent must hear of it from them."""
    agent = await scene.agent()
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    scene.cluster.container(pod, {"running": {}}, phase="Running")
    await scene.until(lambda: "running" in str(agent._view.seen(handle.infrastructure)[1]), "the agent has seen it")
    what(scene)
    scene.cluster.container(pod, {"terminated": {"exitCode": 3}}, phase="Failed")
    limit = asyncio.get_running_loop().time() + scene_seconds(scene)
    while handle not in scene.hints:
        assert asyncio.get_running_loop().time() < limit, "no watch told of it"
        await asyncio.sleep(0.02)
    assert all(one.alive for one in agent._watches)


def scene_seconds(scene: Scene) -> float:
    """Returns how long a hint may take."""
    return getattr(scene, "patience", 60.0)


def cut(scene: Scene) -> None:
    """Breaks all watches."""
    assert scene.cluster.server.cut_watches()


def compact(scene: Scene) -> None:
    """Makes all versions that a watch knows too old, in the middle of the stream."""
    scene.cluster.store.compact()


def cut_and_compact(scene: Scene) -> None:
    """The same, and the next watch is refused at its beginning."""
    compact(scene)
    cut(scene)


def cut_and_refuse(scene: Scene) -> None:
    """Breaks all watches, and has the next ones fail in every way before one is served."""
    for how in (500, "before", "html", 429):
        scene.cluster.server.plant("GET", "watch=true", how, 2)
    cut(scene)


@pytest.mark.parametrize("what", [cut, compact, cut_and_compact, cut_and_refuse])
async def test_no_watch_dies_unheard(scene: Scene, what: Any, monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    monkeypatch.setattr(watch, "FIRST_PAUSE_SECONDS", 0.05)
    await ends_after(scene, what)
    figure(f"watches after {what.__name__}: the end was told")


async def test_a_watch_that_takes_410_for_its_end_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted twin: what is too old ends the thread."""
    follow = watch.Watch._follow

    def once(self: watch.Watch, version: str) -> str:
        try:
            return follow(self, version)
        except ApiRefusedError:
            self._stopped.set()
            return version

    monkeypatch.setattr(watch.Watch, "_follow", once)
    scene.patience = 2.0  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="no watch told of it"):
        await ends_after(scene, compact)


async def test_what_watches_miss_is_found_by_the_next_look(scene: Scene) -> None:
    agent = await scene.agent()
    handle = await scene.launch(agent)
    pod = await scene.pod(handle)
    for one in agent._watches:
        await asyncio.to_thread(one.stop)
    scene.cluster.container(pod, {"terminated": {"exitCode": 0, "message": '{"state": 10}'}}, phase="Succeeded")
    assert await agent.list() == [handle]
    assert (await scene.exit_of(agent, handle)).kind is ExitKind.FINISHED


async def test_an_api_that_is_away_is_no_verdict(scene: Scene) -> None:
    agent = await scene.agent(timeout_seconds=2.0)
    handle = await scene.launch(agent)
    await scene.pod(handle)
    scene.cluster.server.plant("GET", "/(jobs|pods)", 503, 10_000)
    with pytest.raises(OSError, match="503"):
        await agent.list()
    assert isinstance(await agent.inspect(handle), Liveness)
    scene.cluster.server.faults.clear()
    assert await agent.list() == [handle]


async def test_an_agent_has_the_rights_that_it_uses_and_uses_all_that_it_has(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One life of an agent, with what may go wrong in it, asks for each of the printed rights."""
    scene.cluster.kubelet.scripted, scene.cluster.kubelet.pretends = False, True
    agent = await scene.agent()
    scene.cluster.server.plant("POST", "/jobs", "after", 1)
    handle = await scene.launch(agent)
    await scene.until(lambda: scene.cluster.kubelet.started, "the run begins")
    [pod] = scene.cluster.pods()
    await agent.stop(handle, abandon=True)
    await scene.exit_of(agent, handle)
    await agent.forget(handle)
    lost = await scene.launch(agent, 2)
    await scene.until(lambda: len(scene.cluster.kubelet.started) == 2, "another run begins")
    pod = next(one for one in scene.cluster.pods() if one["status"]["phase"] == "Running")
    scene.cluster.container(pod, {"terminated": {"exitCode": 3}}, phase="Failed")
    await scene.exit_of(agent, lost)
    scene.cluster.controllers.refuse_pods = "exceeded quota"
    monkeypatch.setattr("heliograph_agents.launchers.kubernetes.offering.OFFER_SECONDS", 0.2)
    never = await agent.launch(agent.plan(spec_of(3), KubernetesRun(image="f:1").launch_settings()), CREDENTIALS)
    await agent.inspect(never)
    used = set()
    for method, path, query, _ in scene.cluster.server.requests:
        parts = path.split("/namespaces/flows/")
        if len(parts) == 2:
            kind, _, name = parts[1].partition("/")
            verb = {"POST": "create", "DELETE": "delete"}.get(method) or (
                "get" if name else "watch" if "watch=true" in query else "list"
            )
            used.add(("pods/log" if name.endswith("/log") else kind, verb))
    granted = {(resource, verb) for rule in [*RULES, *OPTIONAL_RULES] for resource in rule["resources"]
               for verb in rule["verbs"]}  # fmt: skip
    assert used == granted
    assert ("secrets", "get") not in granted
