"""Results, bundles and ledgers in a real S3 server."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.seaweed import S3Server

from heliograph.config import set_temporary_config
from heliograph.engine.results import S3Result, describe, open_stored
from heliograph.engine.serializers import JSONSerializer
from heliograph.engine.sink import StoredResult
from heliograph.exceptions import BundleChangedError, ResultStoreError, StorageError
from heliograph.ledger import LedgerReader, LedgerWriter, open_store
from heliograph.storage import S3, LaunchSettings, from_reference, launch_settings
from heliograph.storage.bundle import build_bundle
from heliograph.storage.cache import manifest_of
from heliograph.storage.load import load_flows

RUN = "01990000-0000-7000-8000-000000000001"


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.fixture
def flow_file(tmp_path: Path) -> Path:
    path = tmp_path / "project" / "etl_in_s3.py"
    path.parent.mkdir()
    path.write_text("from heliograph import Flow\nflow = Flow('etl')\n")
    (path.parent / "data.txt").write_text("inside")
    return path


def test_a_result_is_written_found_and_read(bucket: str) -> None:
    result = S3Result(bucket, location="{task_name}/{today}.pickle")
    assert not result.exists(result.location, task_name="download", today="2020-09-07")
    written = result.write({"cases": 74}, task_name="download", today="2020-09-07")
    assert written.location == "download/2020-09-07.pickle"
    assert result.exists(result.location, task_name="download", today="2020-09-07")
    assert result.read(written.location).value == {"cases": 74}
    assert pickle.loads(pickle.dumps(written)).read(written.location).value == {"cases": 74}
    assert open_stored(describe(written)).value == {"cases": 74}
    assert describe(written).size_bytes == written.size_bytes > 0


def test_upload_options_are_passed_on(bucket: str, s3: S3Server) -> None:
    result = S3Result(bucket, upload_options={"ContentType": "application/json"}, serializer=JSONSerializer())
    written = result.write([1])
    assert s3.client().head_object(Bucket=bucket, Key=written.location)["ContentType"] == "application/json"


def test_only_absence_is_absence(bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    result = S3Result(bucket)
    assert not result.exists("none")
    with pytest.raises(ResultStoreError, match=r"cannot be read from s3://.*/none"):
        result.read("none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ResultStoreError, match="cannot be told") as caught:
        S3Result(bucket).exists("none")
    assert "credentials" in caught.value.hint
    assert "wrong" not in str(caught.value)


def test_a_reader_cannot_write(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.new_bucket("readable")
    written = S3Result(bucket).write(74)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.reader_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.reader_secret)
    reader = S3Result(bucket)
    assert reader.read(written.location).value == 74
    with pytest.raises(ResultStoreError, match="cannot be written"):
        reader.write(75)


def test_a_server_that_is_away_is_an_error_of_the_store(tmp_path: Path) -> None:
    with set_temporary_config({"storage.s3_endpoint_url": "http://127.0.0.1:9"}):
        options = {"aws_access_key_id": "x", "aws_secret_access_key": "y"}
        from botocore.config import Config

        quick = {**options, "config": Config(retries={"max_attempts": 1}, connect_timeout=1)}
        with pytest.raises(ResultStoreError, match="Could not connect"):
            S3Result("bucket", boto3_kwargs=quick).read("x")
        with pytest.raises(StorageError, match="Could not connect"):
            S3("bucket", client_options=quick).put_bundle(build_bundle(_any_flow(), pickle=True))
        with pytest.raises(ResultStoreError, match="no S3 client"):
            S3Result("bucket", boto3_kwargs={"nonsense": 1}).read("x")


def _any_flow() -> object:
    from heliograph import Flow

    return Flow("any")


def test_a_bundle_goes_up_once_and_comes_down_checked(
    bucket: str, s3: S3Server, flow_file: Path, tmp_path: Path
) -> None:
    flow = load_flows(flow_file)[0]
    storage = S3(bucket, "team/heliograph")
    settings = LaunchSettings(env={"A": "1"})
    ref = storage.put_bundle(build_bundle(flow), settings)
    assert (ref.storage, ref.location, ref.host) == ("s3", f"s3://{bucket}/team/heliograph", "")
    objects = {item["Key"]: item["LastModified"] for item in s3.client().list_objects_v2(Bucket=bucket)["Contents"]}
    hexadecimal = ref.digest.removeprefix("sha256:")
    folder = f"team/heliograph/bundles/sha256/{hexadecimal[:2]}/{hexadecimal}"
    launch = f"team/heliograph/launch/sha256/{ref.launch_digest.removeprefix('sha256:')}.json"
    assert set(objects) == {f"{folder}/bundle.tar", f"{folder}/manifest.json", launch, "team/heliograph/launch/salt"}
    assert storage.put_bundle(build_bundle(flow), settings) == ref
    again = {item["Key"]: item["LastModified"] for item in s3.client().list_objects_v2(Bucket=bucket)["Contents"]}
    assert again == objects

    other = from_reference(ref.storage, ref.location)
    assert other.fetch_launch(ref).env == {"A": "1"}
    fetched = other.fetch(ref, tmp_path / "cache")
    assert (fetched / "data.txt").read_text() == "inside"
    assert manifest_of(fetched).digest == ref.digest

    s3.client().put_object(Bucket=bucket, Key=f"{folder}/bundle.tar", Body=b"other")
    assert other.fetch(ref, tmp_path / "cache") == fetched, "what was fetched is kept"
    with pytest.raises(BundleChangedError):
        other.fetch(ref, tmp_path / "cache-2")
    assert storage.put_bundle(build_bundle(flow), settings) == ref, "registering again repairs"
    assert (other.fetch(ref, tmp_path / "cache-2") / "data.txt").read_text() == "inside"
    with (
        set_temporary_config({"storage.hard_limit_bytes": 10}),
        pytest.raises(StorageError, match="the limit here is 10"),
    ):
        other.fetch(ref, tmp_path / "cache-3")
    s3.client().delete_object(Bucket=bucket, Key=f"{folder}/bundle.tar")
    with pytest.raises(StorageError, match="is not there"):
        other.fetch(ref, tmp_path / "cache-3")


def test_registrations_at_the_same_time_agree(bucket: str, flow_file: Path) -> None:
    code = (
        "import sys; from heliograph.storage import *; from heliograph.storage.bundle import build_bundle;"
        "from heliograph.storage.load import load_flows;"
        "print(S3(sys.argv[1]).put_bundle(build_bundle(load_flows(sys.argv[2])[0])))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, bucket, str(flow_file)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert len(answers) == 1
    assert all(process.returncode == 0 for process in processes)


def test_a_missing_bucket_is_named(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="s3://no-such-bucket/"):
        S3("no-such-bucket").put_bundle(build_bundle(_any_flow(), pickle=True))
    with pytest.raises(ResultStoreError, match="s3://no-such-bucket/x"):
        S3Result("no-such-bucket").read("x")


def test_the_ledger_lives_beside_results_or_bundles(bucket: str, s3: S3Server) -> None:
    from heliograph import Flow

    for flow, prefix in ((Flow("a", result=S3Result(bucket)), ""), (Flow("b"), "team/")):
        described = launch_settings(flow, S3(bucket, "team")).ledger
        store = open_store(described)
        writer = LedgerWriter(store, RUN, 1)
        error_id = writer.new_error_id()
        writer.error(error_id, "Traceback: private")
        writer.result(0, None, StoredResult("x"))
        assert writer.close()
        keys = [
            item["Key"] for item in s3.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}ledger/")["Contents"]
        ]
        assert keys == [f"{prefix}ledger/{RUN}/1-000001.jsonl"]
        reader = LedgerReader(open_store(described), RUN)
        assert reader.error(error_id).text == "Traceback: private"
        assert reader.results()[0, None].location == "x"
        assert LedgerReader(store, RUN.replace("1", "2")).errors() == []


def test_a_flow_keeps_its_results_in_the_bucket_and_finds_them_again(bucket: str) -> None:
    from heliograph import Flow, task

    calls: list[int] = []

    @task(checkpoint=True, result=S3Result(bucket), target="{task_name}-{today}")
    def download() -> dict[str, int]:
        calls.append(1)
        return {"cases": 74}

    with Flow("etl") as flow:
        fetched = download()
    first, second = flow.run(), flow.run()
    assert first.result[fetched].result == second.result[fetched].result == {"cases": 74}
    assert second.result[fetched].is_cached()
    assert len(calls) == 1
