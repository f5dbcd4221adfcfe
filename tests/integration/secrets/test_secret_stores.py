"""Secret stores: AWS's on moto's wire, Vault's API on a real OpenBao. Values come, and no error shows any."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import hvac  # type: ignore[import-untyped]
import pytest
import requests
from moto.server import ThreadedMotoServer
from tests.support.cli import Cli
from tests.support.home import home
from tests.support.stack import free_port, wait_until

from heliograph.client.secret_stores import find_in_stores
from heliograph.client.secrets import Secret
from heliograph.config import set_temporary_config
from heliograph.exceptions import ConfigurationError, SecretNotFoundError

__all__ = ["home"]

VALUE = "correct-horse-7"
FLOW = """
from heliograph import Flow
from heliograph.tasks.secrets import Secret

with Flow("uses-secrets") as flow:
    Secret("DB_PASSWORD")()
    Secret("API_KEY")()
"""


@pytest.fixture(scope="module")
def amazon() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(amazon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", amazon)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    requests.post(f"{amazon}/moto-api/reset", timeout=10)


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bao")
    program = shutil.which("bao", path=str(Path(sys.executable).parent)) or "bao"
    port = free_port()
    command = [program, "server", "-dev", "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"}, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return bool(requests.get(f"{address}/v1/sys/health", timeout=5).ok)
        except requests.RequestException:
            return False

    try:
        wait_until(ready, "the server is ready", 60)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bao(vault: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("VAULT_ADDR", vault)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    client = hvac.Client(vault, "root")
    yield client
    client.adapter.close()


@pytest.mark.usefixtures("aws")
def test_secrets_manager() -> None:
    client: Any = boto3.client("secretsmanager")
    client.create_secret(Name="prod/DB_PASSWORD", SecretString="old")
    client.put_secret_value(SecretId="prod/DB_PASSWORD", SecretString=VALUE)
    assert find_in_stores(["aws-secrets-manager:prod/"], "DB_PASSWORD") == VALUE
    assert find_in_stores(["aws-secrets-manager:prod/"], "OTHER") is None
    client.close()


@pytest.mark.usefixtures("aws")
def test_parameters_are_decrypted_and_the_next_store_is_asked() -> None:
    client: Any = boto3.client("ssm")
    client.put_parameter(Name="/prod/API_KEY", Value=VALUE, Type="SecureString")
    stores = ["aws-secrets-manager:prod/", "aws-ssm:/prod/"]
    assert find_in_stores(stores, "API_KEY") == VALUE
    client.close()


def test_vault_gives_one_value_or_all_fields(bao: Any) -> None:
    write = bao.secrets.kv.v2.create_or_update_secret
    write(path="etl/DB_PASSWORD", secret={"value": VALUE}, mount_point="secret")
    write(path="etl/DB", secret={"user": "ann", "password": VALUE}, mount_point="secret")
    assert find_in_stores(["vault:secret/etl"], "DB_PASSWORD") == VALUE
    assert find_in_stores(["vault:secret/etl"], "DB") == {"user": "ann", "password": VALUE}
    assert find_in_stores(["vault:secret/etl"], "OTHER") is None


def test_the_secrets_of_a_flow_are_checked_in_the_stores(bao: Any, tmp_path: Path) -> None:
    """`heliograph secrets check`, with the rights of a run: it says which store has each, and shows no value."""
    bao.secrets.kv.v2.create_or_update_secret(path="etl/DB_PASSWORD", secret={"value": VALUE}, mount_point="secret")
    (tmp_path / "flow.py").write_text(FLOW)
    cli = Cli(tmp_path / "home", cwd=tmp_path)
    cli.environment |= {name: os.environ[name] for name in ("VAULT_ADDR", "VAULT_TOKEN")}
    cli.environment["HELIOGRAPH__STORAGE__SECRET_STORES"] = "vault:secret/etl"
    rows = {row["name"]: row for row in cli.json("secrets", "check", "flow.py", code=3)}
    assert rows["DB_PASSWORD"]["source"] == "vault:secret/etl"
    assert rows["API_KEY"]["source"] == rows["API_KEY"]["problem"] == ""
    cli.environment["VAULT_TOKEN"] = "hvs.nobody"
    told = cli("secrets", "check", "flow.py", code=3)
    assert "vault:secret/etl/DB_PASSWORD cannot be read: Forbidden" in told.stdout
    assert VALUE not in told.stdout + told.stderr + str(rows)


def test_a_refused_token_is_told_without_a_value(bao: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bao.secrets.kv.v2.create_or_update_secret(path="etl/X", secret={"value": VALUE}, mount_point="secret")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.nobody")
    with pytest.raises(ConfigurationError, match=r"vault:secret/etl/X cannot be read: Forbidden") as caught:
        find_in_stores(["vault:secret/etl"], "X")
    assert VALUE not in str(caught.value)
    assert "VAULT_TOKEN" in caught.value.hint


def test_a_server_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigurationError, match="ConnectionError"):
        find_in_stores(["vault:secret/etl"], "X")
    monkeypatch.delenv("VAULT_ADDR")
    with pytest.raises(ConfigurationError, match="VAULT_ADDR"):
        find_in_stores(["vault:secret/etl"], "X")


def test_a_store_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="no secret store"):
        find_in_stores(["keychain:x"], "X")


@pytest.mark.usefixtures("aws", "home")
def test_a_secret_is_looked_for_in_stores_after_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = boto3.client("ssm")
    client.put_parameter(Name="/prod/API_KEY", Value='{"key": 7}', Type="SecureString")
    client.close()
    with set_temporary_config({"storage.secret_stores": ("aws-ssm:/prod/",)}):
        assert Secret("API_KEY").get() == {"key": 7}
        with pytest.raises(SecretNotFoundError, match="aws-ssm:/prod/"):
            Secret("OTHER").get()
        monkeypatch.setenv("HELIOGRAPH__SECRETS__API_KEY", "mine")
        assert Secret("API_KEY").get() == "mine"
