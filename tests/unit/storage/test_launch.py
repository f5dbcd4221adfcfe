"""Launch settings and run configs: values stay here, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph import Flow
from heliograph.engine.results import LocalResult, S3Result
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.run_configs import LocalRun, UniversalRun
from heliograph.storage import S3, LaunchSettings, Local, launch_settings


@given(
    st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=20), max_size=4),
    st.lists(st.text(max_size=10), max_size=3),
)
def test_settings_come_back(env: dict[str, str], labels: list[str]) -> None:
    settings = LaunchSettings(env=env, labels=tuple(labels), working_dir="/x", ledger={"kind": "local", "dir": ""})
    assert LaunchSettings.from_json(settings.to_json(), settings.digest) == settings


def test_changed_or_malformed_settings_are_refused() -> None:
    import hashlib

    settings = LaunchSettings(env={"A": "1"})
    with pytest.raises(BundleChangedError):
        LaunchSettings.from_json(settings.to_json() + b" ", settings.digest)
    for data in (b"", b"[]", b"{}", b'{"version": 1, "other": 1}', b'{"version": 2}', b'{"version": 1}'):
        with pytest.raises(StorageError):
            LaunchSettings.from_json(data, f"sha256:{hashlib.sha256(data).hexdigest()}")


def test_run_configs_become_settings() -> None:
    run = LocalRun(env={"A": "1"}, working_dir=Path("/srv/flows"), labels=["b", "a"])
    settings = run.launch_settings()
    assert (settings.launcher, settings.env, settings.labels) == ("local", {"A": "1"}, ("a", "b"))
    assert settings.working_dir == "/srv/flows"
    assert UniversalRun(labels={"x"}).launch_settings().launcher == ""
    assert run == LocalRun(env={"A": "1"}, working_dir="/srv/flows", labels=["a", "b"])
    assert run != UniversalRun(env={"A": "1"}, labels=["a", "b"])


def test_run_configs_show_names_never_values() -> None:
    assert repr(LocalRun(env={"PASSWORD": "c4nary"})) == "LocalRun(env=['PASSWORD'])"
    assert "c4nary" not in repr(LocalRun(env={"PASSWORD": "c4nary"}).launch_settings())


@pytest.mark.parametrize("env", [{"A": 1}, {1: "a"}, {"": "x"}, {"A=B": "x"}, {"A": "x\0"}])
def test_environments_that_no_process_can_have_are_refused(env: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="env takes"):
        UniversalRun(env=env)


def test_a_single_text_is_no_list_of_labels() -> None:
    with pytest.raises(TypeError, match="several texts"):
        UniversalRun(labels="linux")


def test_the_ledger_is_where_the_results_are(tmp_path: Path) -> None:
    local, s3 = Local(), S3("bundles", "p", client_options={"endpoint_url": "http://x", "aws_secret_access_key": "no"})
    assert launch_settings(Flow("a"), local).ledger == {"kind": "local", "dir": ""}
    assert launch_settings(Flow("a"), s3).ledger == {
        "kind": "s3", "bucket": "bundles", "prefix": "p", "endpoint_url": "http://x",
    }  # fmt: skip
    assert launch_settings(Flow("a", result=LocalResult(tmp_path)), s3).ledger == {
        "kind": "local",
        "dir": str(tmp_path),
    }
    assert launch_settings(Flow("a", result=LocalResult()), s3).ledger == {"kind": "local", "dir": ""}
    ledger = launch_settings(Flow("a", result=S3Result("r")), local).ledger
    assert ledger == {"kind": "s3", "bucket": "r", "prefix": ""}


def test_modes_are_checked() -> None:
    with pytest.raises(ValueError, match="failure_text"):
        LaunchSettings(failure_text="all")
