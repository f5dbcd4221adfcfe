"""S3 tasks against botocore's stub: which calls they make. Tests with a real server are elsewhere."""

import gzip
import io

import pytest

from heliograph import context
from heliograph.config import set_temporary_config
from heliograph.tasks.aws import S3Download, S3List, S3Upload

boto3 = pytest.importorskip("boto3")
from botocore.response import StreamingBody  # noqa: E402
from botocore.stub import ANY, Stubber  # noqa: E402


@pytest.fixture
def s3(monkeypatch):
    """A stubbed client, and the options that it was asked for with."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    options = []

    def make(given):
        options.append(given)
        return client

    monkeypatch.setattr("heliograph.utilities.s3.s3_client", make)
    with Stubber(client) as stub:
        stub.options = options
        yield stub
        stub.assert_no_pending_responses()


def body(data):
    return {"Body": StreamingBody(io.BytesIO(data), len(data))}


def test_upload_writes_text_as_utf8_and_returns_the_key(s3):
    s3.add_response("put_object", {}, {"Bucket": "b", "Key": "k", "Body": "é".encode()})
    assert S3Upload(bucket="b").run("é", key="k") == "k"


def test_upload_makes_a_key_and_takes_options(s3):
    s3.add_response("put_object", {}, {"Bucket": "other", "Key": ANY, "Body": b"\0", "ContentType": "text/csv"})
    key = S3Upload(bucket="b", upload_options={"ContentType": "text/csv"}).run(b"\0", bucket="other")
    assert len(key) == 36


def test_gzip_both_ways(s3):
    packed = gzip.compress(b"data", mtime=0)
    s3.add_response("get_object", body(packed), {"Bucket": "b", "Key": "k"})
    s3.add_response("put_object", {}, {"Bucket": "b", "Key": "k", "Body": ANY})
    assert S3Download(bucket="b").run("k", compression="gzip") == "data"
    S3Upload(bucket="b").run("data", key="k", compression="gzip")


def test_download_gives_text_or_bytes_of_a_version(s3):
    s3.add_response("get_object", body("é".encode()), {"Bucket": "b", "Key": "k"})
    s3.add_response("get_object", body(b"\xff"), {"Bucket": "b", "Key": "k", "VersionId": "2"})
    assert S3Download(bucket="b").run("k") == "é"
    assert S3Download(bucket="b").run("k", as_bytes=True, version_id="2") == b"\xff"


def test_list(s3):
    request = {"Bucket": "b", "Prefix": "p", "Delimiter": "", "MaxKeys": 1_000}
    s3.add_response("list_objects_v2", {"Contents": [{"Key": "p/1"}, {"Key": "p/2"}]}, request)
    s3.add_response("list_objects_v2", {}, request)
    assert S3List(bucket="b").run("p") == ["p/1", "p/2"]
    assert S3List(bucket="b").run("p") == []


def test_credentials_and_endpoint_reach_the_client(s3):
    for _ in range(3):
        s3.add_response("get_object", body(b""))
    task = S3Download(bucket="b", boto_kwargs={"endpoint_url": "http://localhost:1"})
    keys = {"ACCESS_KEY": "a", "SECRET_ACCESS_KEY": "s"}
    task.run("k", credentials=keys)
    with context(secrets={"AWS_CREDENTIALS": {**keys, "SESSION_TOKEN": "t"}}):
        task.run("k")
    task.run("k")
    own = {"endpoint_url": "http://localhost:1", "aws_access_key_id": "a", "aws_secret_access_key": "s"}
    assert s3.options == [
        {**own, "aws_session_token": None},
        {**own, "aws_session_token": "t"},
        {"endpoint_url": "http://localhost:1"},
    ]


def test_the_endpoint_comes_from_the_environment_too(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:2")
    assert S3Upload()._client(None).meta.endpoint_url == "http://localhost:2"
    with set_temporary_config({"storage.s3_endpoint_url": "http://localhost:3"}):
        assert S3Upload()._client(None).meta.endpoint_url == "http://localhost:3"


@pytest.mark.parametrize("call", [lambda: S3Upload().run("x"), lambda: S3Download().run("k"), lambda: S3List().run("")])
def test_a_bucket_is_needed(call):
    with pytest.raises(ValueError, match="bucket is needed"):
        call()


def test_unknown_compression():
    with pytest.raises(ValueError, match="unknown compression 'zip'"):
        S3Upload(bucket="b").run("x", compression="zip")
