"""Results and ledgers in clouds' object stores, beside the bundles."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.azure_ground import AzureGround
from tests.contract.storages.gcs_ground import GCSGround

from heliograph import Flow, task
from heliograph.context import context
from heliograph.engine.results import AzureResult, GCSResult, Result, describe, open_stored
from heliograph.engine.sink import StoredResult
from heliograph.exceptions import InvalidArgumentError, ResultStoreError
from heliograph.ledger import LedgerReader, LedgerWriter, open_store
from heliograph.storage import launch_settings

RUN = "01990000-0000-7000-8000-000000000001"


@pytest.fixture(
    params=[
        pytest.param(kind, id=kind.kind, marks=[pytest.mark.xdist_group(f"storage-{kind.kind}")])
        for kind in (GCSGround, AzureGround)
    ]
)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = request.param(tmp_path, request)
    made.open()
    yield made
    made.close()


def result_in(cloud: Any, name: str = "", **more: Any) -> Result:
    if cloud.kind == "gcs":
        return GCSResult(name or cloud.name, **more)
    return AzureResult(name or cloud.name, **more)


def test_a_result_is_written_found_and_read(cloud: Any) -> None:
    result = result_in(cloud, location="{task_name}/{today}.pickle")
    assert not result.exists(result.location, task_name="download", today="2020-09-07")
    written = result.write({"cases": 74}, task_name="download", today="2020-09-07")
    assert written.location == "download/2020-09-07.pickle"
    assert result.exists(result.location, task_name="download", today="2020-09-07")
    assert result.read(written.location).value == {"cases": 74}
    assert pickle.loads(pickle.dumps(written)).read(written.location).value == {"cases": 74}
    stored = describe(written)
    assert open_stored(stored).value == {"cases": 74}
    for secret in cloud.secrets:
        assert secret not in str(stored)
    again = result.write({"cases": 75}, task_name="download", today="2020-09-07")
    assert result.read(again.location).value == {"cases": 75}


def test_what_is_not_there_is_said(cloud: Any) -> None:
    with pytest.raises(ResultStoreError, match=f"{cloud.name}/none.* is not there"):
        result_in(cloud).read("none")
    with pytest.raises(ResultStoreError, match="no-such-place") as caught:
        result_in(cloud, "no-such-place").write(1)
    assert caught.value.hint


def test_a_flow_finds_its_results_again(cloud: Any) -> None:
    calls: list[int] = []

    @task(checkpoint=True, result=result_in(cloud), target="{task_name}-{today}")
    def download() -> dict[str, int]:
        calls.append(1)
        return {"cases": 74}

    with Flow("etl") as flow:
        fetched = download()
    first, second = flow.run(), flow.run()
    assert first.result[fetched].result == second.result[fetched].result == {"cases": 74}
    assert len(calls) == 1


def test_the_ledger_lives_beside_results_or_bundles(cloud: Any) -> None:
    storage, result = cloud.storage(), result_in(cloud)
    result.write(0)
    for flow, prefix in ((Flow("a", result=result), ""), (Flow("b"), "team/bundles/")):
        described = launch_settings(flow, storage).ledger
        writer = LedgerWriter(open_store(described), RUN, 1)
        error_id = writer.new_error_id()
        writer.error(error_id, "Traceback: private")
        writer.result(0, None, StoredResult("x"))
        assert writer.close()
        assert list(storage.objects.names(f"{prefix}ledger/")) == [f"{prefix}ledger/{RUN}/1-000001.jsonl"]
        reader = LedgerReader(open_store(described), RUN)
        assert reader.error(error_id).text == "Traceback: private"
        assert reader.results()[0, None].location == "x"
        assert LedgerReader(open_store(described), RUN.replace("1", "2")).errors() == []
        for secret in cloud.secrets:
            assert secret not in str(described)


def test_a_secret_names_the_login(cloud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if cloud.kind != "azure":
        with pytest.raises(InvalidArgumentError):
            GCSResult()
        return
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    with pytest.raises(InvalidArgumentError) as refused:
        AzureResult(cloud.name, connection_string=cloud.server.connection_string())
    assert cloud.server.key not in str(refused.value)
    result = AzureResult(cloud.name, connection_string_secret="BLOBS")
    with context(secrets={"BLOBS": cloud.server.connection_string()}):
        written = result.write(74)
        assert open_stored(describe(written)).value == 74
    with pytest.raises(ResultStoreError, match="does not know its account"):
        AzureResult(cloud.name).write(1)
