"""Prefect 1's storages and run configs: every argument means what it meant, or the error says what to use instead."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliograph import run_configs, storage
from heliograph.exceptions import InvalidArgumentError
from heliograph.storage import S3, Azure, Bitbucket, CodeCommit, Git, Local

SCRIPT = Path("/srv/flows/etl.py")
BASE = {"result", "secrets", "labels", "add_default_labels", "stored_as_script"}
TEMPLATE = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {"containers": [{"name": "flow"}]}}}}
TASK = {"containerDefinitions": [{"name": "flow", "image": "x"}]}

ARGUMENTS = {
    "Local": {"directory", "validate", "path", *BASE},
    "S3": {"bucket", "key", "local_script_path", "client_options", "upload_options", *BASE},
    "GCS": {"bucket", "key", "project", "local_script_path", *BASE},
    "Azure": {"container", "connection_string_secret", "blob_name", "overwrite", *BASE},
    "Git": {"flow_path", "repo", "repo_host", "flow_name", "git_token_secret_name", "git_token_username",
            "git_clone_url_secret_name", "branch_name", "tag", "commit", "clone_depth", "use_ssh", *BASE},
    "GitHub": {"repo", "path", "ref", "access_token_secret", "base_url", *BASE},
    "GitLab": {"repo", "path", "host", "ref", "access_token_secret", *BASE},
    "Bitbucket": {"project", "repo", "workspace", "host", "path", "ref", "access_token_secret", "cloud_username_secret",
                  "cloud_app_password_secret", *BASE},
    "CodeCommit": {"repo", "path", "commit", "client_options", *BASE},
    "UniversalRun": {"env", "labels"},
    "LocalRun": {"env", "working_dir", "labels"},
    "DockerRun": {"image", "env", "labels", "ports", "host_config"},
    "ECSRun": {"task_definition", "task_definition_path", "task_definition_arn", "image", "env", "cpu", "memory",
               "task_role_arn", "execution_role_arn", "run_task_kwargs", "labels"},
    "KubernetesRun": {"job_template", "job_template_path", "image", "env", "cpu_limit", "cpu_request", "memory_limit",
                      "memory_request", "service_account_name", "image_pull_secrets", "labels", "image_pull_policy"},
}  # fmt: skip
"""What each class of Prefect 1.4 takes."""

NEEDED: dict[str, dict[str, Any]] = {
    "S3": {"bucket": "flows"}, "GCS": {"bucket": "flows"}, "Azure": {"container": "flows"},
    "Git": {"flow_path": "etl.py", "repo": "shop/etl"}, "GitHub": {"repo": "shop/etl", "path": "etl.py"},
    "GitLab": {"repo": "shop/etl", "path": "etl.py"},
    "CodeCommit": {"repo": "etl"},
    "Bitbucket": {"project": "SHOP", "repo": "etl", "host": "https://bits.example.org"},
}  # fmt: skip

LABELS, DEFAULT_LABELS, RESULT, SECRETS = "UniversalRun", "no hidden labels", r"Flow\(…, result=…\)", "PrefectSecret"

Check = Callable[[Any], bool] | str


def _accepted(made: Any) -> bool:
    """What does nothing here is taken without a word."""
    return made is not None


def _common(name: str) -> list[tuple[str, dict[str, Any], Check]]:
    """The arguments of Prefect 1's base class."""
    return [
        (name, {"labels": ["gpu"]}, LABELS),
        (name, {"labels": []}, _accepted),
        (name, {"result": object()}, RESULT),
        (name, {"secrets": ["TOKEN"]}, SECRETS),
        (name, {"secrets": None}, _accepted),
    ]


def _holding(name: str) -> list[tuple[str, dict[str, Any], Check]]:
    return [
        (name, {"stored_as_script": True}, lambda made: made.pickle is False),
        (name, {"stored_as_script": False}, lambda made: made.pickle is True),
        (name, {"stored_as_script": True, "pickle": True}, "contradict"),
        *_common(name),
    ]


def _bucket(name: str, key: str) -> list[tuple[str, dict[str, Any], Check]]:
    return [
        (name, {}, lambda made: made.prefix == "heliograph"),
        (name, {key: "flows/etl"}, lambda made: made.prefix == "flows/etl"),
        (name, {key: "a", "prefix": "b"}, "give one of them"),
        (name, {key: "a/../b"}, "no prefix"),
        (name, {"local_script_path": str(SCRIPT)}, lambda made: made.flow_file == SCRIPT),
        (name, {"add_default_labels": True}, DEFAULT_LABELS),
        (name, {"add_default_labels": False}, lambda made: made.host == ""),
        *_holding(name),
    ]


def _repository(name: str) -> list[tuple[str, dict[str, Any], Check]]:
    return [
        (name, {"stored_as_script": True}, lambda made: made.pickle is False),
        (name, {"stored_as_script": False}, "no pickles"),
        (name, {"add_default_labels": True}, DEFAULT_LABELS),
        *_common(name),
    ]


def _settings(**expected: Any) -> Callable[[Any], bool]:
    return lambda made: all(getattr(made.launch_settings(), name) == value for name, value in expected.items())


def _options(made: Any) -> dict[str, Any]:
    return dict(made.launch_settings().options)


CASES: list[tuple[str, dict[str, Any], Check]] = [
    ("Local", {"directory": "/srv/kept"}, lambda made: made.location == "/srv/kept"),
    ("Local", {"directory": "~/kept"}, lambda made: made.location == str(Path("~/kept").expanduser())),
    ("Local", {"directory": "/srv/kept", "validate": False}, lambda made: made.location == "/srv/kept"),
    ("Local", {"path": str(SCRIPT), "stored_as_script": True}, lambda made: made.flow_file == SCRIPT),
    ("Local", {"path": "shop.flows.etl", "stored_as_script": True}, "no file of Python"),
    ("Local", {"path": "/srv/etl.prefect", "stored_as_script": False}, "named by what they hold"),
    ("Local", {"add_default_labels": True}, lambda made: made.host != ""),
    ("Local", {"add_default_labels": False}, lambda made: made.host == ""),
    *_holding("Local"),
    ("S3", {"bucket": "flows"}, lambda made: made.location == "s3://flows/heliograph"),
    (
        "S3",
        {"client_options": {"region_name": "eu-west-1"}},
        lambda made: made.client_options == {"region_name": "eu-west-1"},
    ),
    ("S3", {"upload_options": {"ACL": "private"}}, lambda made: made.upload_options == {"ACL": "private"}),
    *_bucket("S3", "key"),
    ("GCS", {"bucket": "flows"}, lambda made: made.location == "gs://flows/heliograph"),
    ("GCS", {"project": "billing"}, lambda made: made.project == "billing"),
    *_bucket("GCS", "key"),
    ("Azure", {"container": "flows"}, lambda made: made.container == "flows"),
    ("Azure", {"connection_string_secret": "BLOBS"}, lambda made: made.connection_string_secret == "BLOBS"),
    ("Azure", {"connection_string": "AccountKey=x"}, "connection_string_secret="),
    ("Azure", {"overwrite": True}, _accepted),
    *_bucket("Azure", "blob_name"),
    ("Git", {"flow_path": "flows/etl.py"}, lambda made: made.flow_path == "flows/etl.py"),
    (
        "Git",
        {"repo": "a/b", "repo_host": "git.example.org"},
        lambda made: made.url == "https://git.example.org/a/b.git",
    ),
    ("Git", {"use_ssh": True}, lambda made: made.url == "git@github.com:shop/etl.git"),
    ("Git", {"flow_name": "etl", "clone_depth": 1}, _accepted),
    ("Git", {"git_token_secret_name": "T", "git_token_username": "u"}, lambda made: "T" not in made.location),
    ("Git", {"git_clone_url_secret_name": "URL"}, "give repo="),
    ("Git", {"branch_name": "main"}, lambda made: made.ref == "main"),
    ("Git", {"tag": "v1"}, lambda made: made.ref == "v1"),
    ("Git", {"commit": "a" * 40}, lambda made: made.ref == "a" * 40),
    ("Git", {"commit": "a" * 40, "tag": "v1"}, "only one"),
    *_repository("Git"),
    ("GitHub", {"repo": "a/b"}, lambda made: made.url == "https://github.com/a/b"),
    ("GitHub", {"path": "flows/etl.py"}, lambda made: made.flow_path == "flows/etl.py"),
    ("GitHub", {"ref": "main"}, lambda made: made.ref == "main"),
    ("GitHub", {"access_token_secret": "T"}, lambda made: "T" not in made.location.replace("https", "")),
    (
        "GitHub",
        {"base_url": "https://hub.example.org/api/v3"},
        lambda made: made.url == "https://hub.example.org/shop/etl",
    ),
    *_repository("GitHub"),
    ("GitLab", {"repo": "a/b/c"}, lambda made: made.url == "https://gitlab.com/a/b/c"),
    ("GitLab", {"path": "flows/etl.py"}, lambda made: made.flow_path == "flows/etl.py"),
    ("GitLab", {"host": "lab.example.org"}, lambda made: made.url == "https://lab.example.org/shop/etl"),
    ("GitLab", {"ref": "main"}, lambda made: made.ref == "main"),
    ("GitLab", {"access_token_secret": "T"}, lambda made: "T" not in made.location),
    *_repository("GitLab"),
    ("Bitbucket", {"project": "P", "repo": "r"}, lambda made: made.url.endswith("/projects/P/repos/r")),
    ("Bitbucket", {"host": "bits.example.org"}, lambda made: made.url.startswith("https://bits.example.org/")),
    ("Bitbucket", {"path": "flows/etl.py"}, lambda made: made.flow_path == "flows/etl.py"),
    ("Bitbucket", {"ref": "main"}, lambda made: made.ref == "main"),
    ("Bitbucket", {"access_token_secret": "T0KEN"}, lambda made: "T0KEN" not in made.location),
    ("Bitbucket", {"workspace": "shop", "host": None}, lambda made: made.url == "https://bitbucket.org/shop/etl"),
    (
        "Bitbucket",
        {"workspace": "shop", "host": None, "cloud_username_secret": "U5ER", "cloud_app_password_secret": "PA55"},
        lambda made: "U5ER" not in made.location and "PA55" not in made.location,
    ),
    ("Bitbucket", {"cloud_username_secret": "U", "cloud_app_password_secret": "P"}, "workspace="),
    *_repository("Bitbucket"),
    ("CodeCommit", {"repo": "shop.etl"}, lambda made: made.url.endswith("/shop.etl")),
    ("CodeCommit", {"path": "/flows/etl.py"}, lambda made: made.flow_path == "flows/etl.py"),
    ("CodeCommit", {"commit": "refs/heads/main"}, lambda made: made.ref == "refs/heads/main"),
    (
        "CodeCommit",
        {"client_options": {"region_name": "eu-west-1"}},
        lambda made: made.url == "codecommit://eu-west-1/etl",
    ),
    *_repository("CodeCommit"),
    ("UniversalRun", {"env": {"A": "1"}}, _settings(env={"A": "1"}, launcher="")),
    ("UniversalRun", {"labels": ["b", "a"]}, _settings(labels=("a", "b"))),
    ("LocalRun", {"env": {"A": "1"}}, _settings(env={"A": "1"}, launcher="local")),
    ("LocalRun", {"working_dir": "/srv"}, _settings(working_dir="/srv")),
    ("LocalRun", {"labels": ["a"]}, _settings(labels=("a",))),
    ("DockerRun", {"image": "x:1"}, _settings(image="x:1", launcher="docker")),
    ("DockerRun", {"env": {"A": "1"}}, _settings(env={"A": "1"})),
    ("DockerRun", {"labels": ["a"]}, _settings(labels=("a",))),
    ("DockerRun", {"ports": [8080]}, lambda made: _options(made)["ports"] == [8080]),
    ("DockerRun", {"host_config": {"shm_size": 1}}, lambda made: _options(made)["host_config"] == {"shm_size": 1}),
    ("ECSRun", {"image": "x:1"}, _settings(image="x:1", launcher="ecs")),
    ("ECSRun", {"env": {"A": "1"}}, _settings(env={"A": "1"})),
    ("ECSRun", {"labels": ["a"]}, _settings(labels=("a",))),
    ("ECSRun", {"cpu": "2 vcpu", "memory": "4 GB"}, _settings(cpu_millis=2000, memory_bytes=4 * 2**30)),
    ("ECSRun", {"task_definition": TASK}, lambda made: TASK in _options(made).values()),
    ("ECSRun", {"task_definition_path": "/no/such/file.yaml"}, "file.yaml"),
    ("ECSRun", {"task_definition_arn": "flows:3"}, lambda made: "flows:3" in _options(made).values()),
    ("ECSRun", {"task_definition_arn": "flows:3", "image": "x:1"}, "image"),
    (
        "ECSRun",
        {"task_role_arn": "arn:aws:iam::123456789012:role/t"},
        lambda made: "arn:aws:iam::123456789012:role/t" in str(_options(made)),
    ),
    (
        "ECSRun",
        {"execution_role_arn": "arn:aws:iam::123456789012:role/e"},
        lambda made: "arn:aws:iam::123456789012:role/e" in str(_options(made)),
    ),
    ("ECSRun", {"run_task_kwargs": {"cluster": "c"}}, lambda made: {"cluster": "c"} in _options(made).values()),
    ("KubernetesRun", {"image": "x:1"}, _settings(image="x:1", launcher="kubernetes")),
    ("KubernetesRun", {"env": {"A": "1"}}, _settings(env={"A": "1"})),
    ("KubernetesRun", {"labels": ["a"]}, _settings(labels=("a",))),
    ("KubernetesRun", {"job_template": TEMPLATE}, lambda made: TEMPLATE in _options(made).values()),
    ("KubernetesRun", {"job_template_path": "/no/such/file.yaml"}, "file.yaml"),
    (
        "KubernetesRun",
        {"cpu_limit": "500m"},
        lambda made: "500m" in str(_options(made)) or made.launch_settings().cpu_millis == 500,
    ),
    (
        "KubernetesRun",
        {"cpu_request": 0.25},
        lambda made: "0.25" in str(_options(made)) or "250m" in str(_options(made)),
    ),
    (
        "KubernetesRun",
        {"memory_limit": "2Gi"},
        lambda made: "2Gi" in str(_options(made)) or made.launch_settings().memory_bytes == 2**31,
    ),
    ("KubernetesRun", {"memory_request": "1Gi"}, lambda made: "1Gi" in str(_options(made))),
    ("KubernetesRun", {"service_account_name": "flows"}, lambda made: "flows" in _options(made).values()),
    ("KubernetesRun", {"image_pull_secrets": ["s"]}, lambda made: ["s"] in _options(made).values()),
    ("KubernetesRun", {"image_pull_policy": "Never"}, lambda made: "Never" in _options(made).values()),
]


def _make(name: str, arguments: dict[str, Any]) -> Any:
    module = run_configs if name.endswith("Run") else storage
    return getattr(module, name)(**{**NEEDED.get(name, {}), **arguments})


@pytest.mark.parametrize(
    ("name", "arguments", "expected"), CASES, ids=[f"{name}-{'-'.join(given) or 'nothing'}" for name, given, _ in CASES]
)
def test_an_argument_means_what_it_meant_or_says_what_to_use(
    name: str, arguments: dict[str, Any], expected: Check
) -> None:
    if isinstance(expected, str):
        with pytest.raises((ValueError, TypeError, OSError), match=expected) as refused:
            _make(name, arguments)
        assert "AccountKey" not in str(refused.value)
        return
    assert expected(_make(name, arguments)), _make(name, arguments)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_argument_is_left_out(name: str) -> None:
    tried = {argument for case, given, _ in CASES if case == name for argument in given} | set(NEEDED.get(name, {}))
    assert not ARGUMENTS[name] - tried
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        _make(name, {"no_such_argument": 1})


@pytest.mark.parametrize(
    ("made", "as_prefect_1"),
    [
        (S3("flows", "etl"), S3(bucket="flows", key="etl")),
        (Azure("flows", "BLOBS", "etl"), Azure(container="flows", connection_string_secret="BLOBS", blob_name="etl")),
        (Local("/srv", True), Local(directory="/srv")),
        (Git("etl.py", "shop/etl"), Git(flow_path="etl.py", repo="shop/etl")),
        (
            CodeCommit("etl", "etl.py", "main", {"region_name": "eu-west-1"}),
            CodeCommit(repo="etl", path="etl.py", commit="main", client_options={"region_name": "eu-west-1"}),
        ),
        (Bitbucket("SHOP", "etl", "acme"), Bitbucket(project="SHOP", repo="etl", workspace="acme")),
    ],
)
def test_arguments_stand_in_the_same_order(made: Any, as_prefect_1: Any) -> None:
    assert made == as_prefect_1


@pytest.mark.parametrize(
    ("module", "name", "way"),
    [
        ("heliograph.run_configs", "VertexRun", "KubernetesRun"),
    ],
)
def test_a_class_that_is_not_here_names_its_replacement(module: str, name: str, way: str) -> None:
    with pytest.raises(ImportError, match=f"{name}.*{way}"):
        getattr(importlib.import_module(module), name)
    with pytest.raises(ImportError, match=way):
        exec(f"from {module} import {name}")


def test_a_script_by_path_is_what_is_registered(tmp_path: Path) -> None:
    from heliograph.storage.load import load_flows

    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("from heliograph import Flow\nflow = Flow('etl')\n")
    (tmp_path / "heliograph.toml").touch()
    (flow,) = load_flows(tmp_path / "one.py")
    bundle = Local(tmp_path / "kept", path=tmp_path / "two.py").make_bundle(flow)
    assert bundle.manifest.entrypoint == "two.py"
    with pytest.raises(InvalidArgumentError):
        Local(path=tmp_path / "none")
