"""Secrets of a cluster as a source of secrets: with the right to read one of them, and without."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.home import home
from tests.support.kubernetes_fake import Cluster, fake_cluster

from heliograph.client.secret_stores import find_in_stores
from heliograph.client.secrets import Secret
from heliograph.config import set_temporary_config
from heliograph.exceptions import ConfigurationError

__all__ = ["home"]

VALUE = "correct-horse-9"
READER = [
    {"metadata": {"namespace": "flows"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}
]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with fake_cluster(tmp_path / "cluster") as made:
        made.server.grant("reader", READER)
        data = {"DB_PASSWORD": VALUE, "limits": json.dumps({"rows": 7})}
        encoded = {name: base64.b64encode(text.encode()).decode() for name, text in data.items()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "etl"}, "data": encoded | {"odd": "/w=="}}
        made.store.create("secrets", "flows", body)
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig("reader"))
        yield made


@pytest.mark.usefixtures("cluster", "home")
@pytest.mark.parametrize("store", ["kubernetes:flows/etl", "kubernetes:/etl"])
def test_a_key_of_a_secret_is_a_secret(store: str) -> None:
    with set_temporary_config({"storage.secret_stores": [store]}):
        assert Secret("DB_PASSWORD").get() == VALUE
        assert Secret("limits").get() == {"rows": 7}
        assert not Secret("another").exists()


@pytest.mark.usefixtures("cluster")
def test_a_secret_that_is_not_there_is_looked_for_in_the_next_store() -> None:
    assert find_in_stores(["kubernetes:flows/none", "kubernetes:flows/etl"], "DB_PASSWORD") == VALUE


@pytest.mark.parametrize(
    ("store", "name", "message"),
    [("kubernetes:flows/", "x", "names no Secret"), ("kubernetes:flows/etl", "odd", "no text"),
     ("kubernetes:other/etl", "x", "status 403")],
)  # fmt: skip
@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_read_is_an_error_without_the_value(store: str, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        find_in_stores([store], name)
    assert VALUE not in str(caught.value)


def test_the_agents_own_rights_read_no_secret(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig())
    with pytest.raises(ConfigurationError, match="status 403"):
        find_in_stores(["kubernetes:flows/etl"], "DB_PASSWORD")


def test_no_way_to_a_cluster_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="no way to a cluster"):
        find_in_stores(["kubernetes:flows/etl"], "DB_PASSWORD")
