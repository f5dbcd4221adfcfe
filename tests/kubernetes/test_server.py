"""The fake cluster of the quick tests answers as the real one does."""

from __future__ import annotations

from pathlib import Path

from tests.support.figures import Figure
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.script import compare, play
from tests.support.kubernetes_fake import ADMIN_TOKEN, fake_cluster


def test_the_fake_cluster_answers_as_the_real_one(
    cluster: Cluster, namespace: str, tmp_path: Path, figure: Figure
) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token = cluster.admin.post(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    really = play(cluster.admin, cluster.api("nonsense"), cluster.api(token), namespace, cluster.restart_api)
    with fake_cluster(tmp_path, old=True, namespaces=(namespace,)) as fake:
        fake.kubelet.scripted = True
        fake.server.grant("stranger", [])
        url, store = fake.server.url, fake.store
        found = play(Api(url, ADMIN_TOKEN), Api(url, "nonsense"), Api(url, "stranger"), namespace, store.compact)
    differences = compare(really, found)
    figure(f"{len(really.facts)} answers of the fake cluster compared: {len(differences)} differ")
    assert not differences, "\n".join(differences)
