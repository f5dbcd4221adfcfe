"""Git storage on a real server: which commit is meant, who may read it, and what a registration refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.commits import register, run, write_flow
from tests.support.git_http import PASSWORD, USER, GitRepository, GitServer, git

from heliograph.config import set_temporary_config
from heliograph.context import context
from heliograph.exceptions import BundleChangedError, InvalidArgumentError, LaunchSettingsError, StorageError
from heliograph.run_configs import UniversalRun
from heliograph.storage import Git, from_reference
from heliograph.storage.base import BundleRef
from heliograph.storage.git_client import parse_url
from heliograph.storage.own_launch import complete, own_launch_path, own_launch_text
from heliograph.storage.pin import Pin


@pytest.fixture
def repository(git_server: GitServer) -> GitRepository:
    return git_server.repository(f"r{uuid.uuid4().hex[:8]}")


@pytest.fixture
def project() -> Callable[..., Any]:
    """Writes a flow with a helper into a clone and returns it, loaded from there."""
    return write_flow


def test_runs_have_the_commit_of_registration(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    flow = project(repository)
    commit = git(repository.clone, "rev-parse", "HEAD")
    ref = register(Git(repo=repository.url), flow)
    assert Pin.parse(ref.location).commit == commit
    helper = next(repository.clone.glob("helper_*.py"))
    repository.commit({helper.name: "WORD = 'two'\n"})
    assert run(ref, tmp_path / "a") == "one"
    assert (ref.host, ref.storage) == ("", "git")
    # A rewritten branch: the server still gives the commit, though no branch has it.
    git(repository.clone, "checkout", "-q", "--orphan", "other")
    repository.commit()
    git(repository.clone, "push", "-q", "-f", "origin", "other:main")
    assert run(ref, tmp_path / "b") == "one"


def test_a_fetched_commit_needs_the_server_no_more(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    ref = register(Git(repo=repository.url), project(repository))
    assert run(ref, tmp_path) == "one"
    shutil.rmtree(repository.bare)
    assert run(ref, tmp_path) == "one"
    with pytest.raises(StorageError, match="not found"):
        run(ref, tmp_path / "other")


def test_a_folder_of_a_repository_and_a_tag(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    repository.commit({"secret-plans.txt": "x", "flows/run.sh": "#!/bin/sh\n"})
    (repository.clone / "flows" / "run.sh").chmod(0o755)
    flow = project(repository, folder="flows/")
    git(repository.clone, "tag", "-a", "v1", "-m", "x")
    git(repository.clone, "push", "-q", "origin", "v1")
    ref = register(Git(repo=repository.url, tag="v1", subdir="flows"), flow)
    folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path)
    names = sorted(path.name for path in folder.rglob("*"))
    assert "secret-plans.txt" not in names
    assert "run.sh" in names
    assert os.access(folder / "run.sh", os.X_OK)
    assert run(ref, tmp_path) == "one"


def test_what_is_not_pushed_is_refused_with_what_to_do(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    flow = project(repository)
    storage = Git(repo=repository.url)
    helper = next(repository.clone.glob("helper_*.py"))
    helper.write_text("WORD = 'dirty'\n")
    with pytest.raises(StorageError, match="not committed: helper_") as dirty:
        register(storage, flow)
    assert "Commit and push" in dirty.value.hint
    git(repository.clone, "commit", "-qam", "x")
    with pytest.raises(StorageError, match="another helper_") as unpushed:
        register(storage, flow)
    assert "not pushed" in unpushed.value.hint
    git(repository.clone, "push", "-q", "origin", "HEAD")
    register(storage, flow)
    new = project(repository, push=False)
    with pytest.raises(StorageError, match="has no flow_") as untracked:
        register(storage, new)
    assert "add, commit and push" in untracked.value.hint


def test_a_private_repository_wants_a_login_that_is_told_to_nobody(
    git_server: GitServer,
    project: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    repository = git_server.repository(f"p{uuid.uuid4().hex[:8]}", private=True)
    flow = project(repository)
    with pytest.raises(StorageError, match="could not read Username") as refused:
        register(Git(repo=repository.url), flow)
    assert "storage.tokens" in refused.value.hint
    seen: list[str] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: Any) -> Any:
        seen.extend(command)
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    with context(secrets={"READ": f"{USER}:{PASSWORD}"}):
        ref = register(Git(repo=repository.url, git_token_secret_name="READ"), flow)
        with pytest.raises(StorageError, match="Username"):  # an agent sends no secret that its owner did not bind
            run(ref, tmp_path / "a")
        with set_temporary_config({"storage.tokens": [f"{git_server.address}=READ"]}):
            assert run(ref, tmp_path / "b") == "one"
    with (
        context(secrets={"READ": "wrong-token"}),
        set_temporary_config({"storage.tokens": [f"{git_server.address}/private=READ"]}),
        pytest.raises(StorageError) as wrong,
    ):
        run(ref, tmp_path / "c")
    told = f"{ref} {seen} {caplog.text} {wrong.value} {refused.value}"
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "b").rglob("*") if path.is_file())
    for text in (told, kept, (git_server.folder / "access.log").read_text()):
        assert PASSWORD not in text
        assert "wrong-token" not in text
    assert "READ" not in ref.location


def test_a_login_follows_no_redirection(
    git_server: GitServer, repository: GitRepository, project: Callable[..., Any]
) -> None:
    flow = project(repository)
    moved = repository.url.replace("/open/", "/moved/")
    with pytest.raises(StorageError, match="error: 302") as refused:
        register(Git(repo=moved), flow)
    assert "new address" in refused.value.hint


def test_folders_need_leave_and_belong_to_a_host(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    flow = project(repository)
    with pytest.raises(StorageError, match="protocol file") as refused:
        register(Git(repo=str(repository.bare)), flow)
    assert "storage.git_protocols" in refused.value.hint
    with set_temporary_config({"storage.git_protocols": ["file"]}):
        ref = register(Git(repo=str(repository.bare), host="box-7"), flow)
        assert ref.host == "box-7"
        assert run(ref, tmp_path) == "one"


def test_an_old_server_that_gives_tips_only_is_fetched_by_branch(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit({"a.txt": "1"})
    ref = register(Git(repo=repository.url, branch_name="main"), project(repository))
    repository.commit({"a.txt": "2"})
    real = shutil.which("git")
    # What such a server answers to a request for a bare commit.
    (tmp_path / "git").write_text(
        '#!/bin/sh\nfor a; do case "$a" in +[0-9a-f][0-9a-f]*:*) echo "fatal: no such remote ref" >&2; exit 128;;'
        f' esac; done\nexec {real} "$@"\n'
    )
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert run(ref, tmp_path / "cache") == "one"


def test_a_followed_branch_warns_and_says_its_commit(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    flow = project(repository)
    storage = Git(repo=repository.url, branch_name="main", pin="branch")
    bundle = storage.make_bundle(flow)
    assert any("whoever can push decides" in warning for warning in bundle.report.warnings)
    ref = storage.put_bundle(bundle)
    helper = next(repository.clone.glob("helper_*.py"))
    commit = repository.commit({helper.name: "WORD = 'two'\n"})
    reader = from_reference(ref.storage, ref.location)
    folder = reader.fetch(ref, tmp_path)
    assert (folder / helper.name).read_text() == "WORD = 'two'\n"
    assert reader.remarks() == [f"the code is commit {commit} of main"]
    assert run(ref, tmp_path) == "two"


def test_another_commit_than_the_registered_one_is_refused(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path
) -> None:
    ref = register(Git(repo=repository.url), project(repository))
    pin = Pin.parse(ref.location)
    other = repository.commit({pin.path: "print('evil')\n"})
    forged = BundleRef(**{**{name: getattr(ref, name) for name in ref.__slots__}, "location": pin.at(other).location()})
    with pytest.raises(BundleChangedError, match="registered with"):
        run(forged, tmp_path)
    assert not list((tmp_path / "bundles").glob("[0-9a-f]*/"))


def test_links_submodules_and_pointers_are_said(
    repository: GitRepository, git_server: GitServer, project: Callable[..., Any], tmp_path: Path
) -> None:
    inner = git_server.repository(f"i{uuid.uuid4().hex[:8]}")
    commit = inner.commit({"a": "b"})
    repository.write({"big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"})
    (repository.clone / "link").symlink_to("/etc/passwd")
    flow = project(repository)
    git(repository.clone, "update-index", "--add", "--cacheinfo", f"160000,{commit},vendored")
    git(repository.clone, "commit", "-qm", "x")
    git(repository.clone, "push", "-q", "origin", "HEAD")
    (repository.clone / "vendored").mkdir()
    bundle = Git(repo=repository.url).make_bundle(flow)
    assert {("link", "a symbolic link"), ("vendored", "a submodule")} <= set(bundle.report.dropped)
    assert any("big.bin is a pointer of Git LFS" in warning for warning in bundle.report.warnings)
    assert any("submodules are not fetched: vendored" in warning for warning in bundle.report.warnings)
    assert "link" not in bundle.contents


def test_values_have_no_place_in_a_repository(
    repository: GitRepository, project: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOGRAPH_HOME", str(tmp_path / "home"))
    flow = project(repository)
    flow.run_config = UniversalRun(env={"KEY": "s3cr3t"}, labels=["gpu"])
    with pytest.raises(LaunchSettingsError, match=r"env\.KEY") as refused:
        register(Git(repo=repository.url), flow)
    assert "launch='agent'" in refused.value.hint
    assert "S3" in refused.value.hint
    ref = register(Git(repo=repository.url, launch="agent"), flow)
    assert "s3cr3t" not in str(ref)
    settings = from_reference(ref.storage, ref.location).fetch_launch(ref)
    assert (settings.labels, settings.from_agent, dict(settings.env)) == (("gpu",), ("env.KEY",), {})
    path = own_launch_path("shop", "say")
    with pytest.raises(LaunchSettingsError, match=r"env\.KEY"):
        complete(settings, own_launch_text("shop", "say"), str(path))
    path.parent.mkdir(parents=True)
    path.write_text('working_dir = "/srv"\n[env]\nKEY = "own"\n')
    path.chmod(0o600)
    full = complete(settings, own_launch_text("shop", "say"), str(path))
    assert (full.env, full.working_dir) == ({"KEY": "own"}, "/srv")
    path.chmod(0o666)
    with pytest.raises(LaunchSettingsError, match="written by others"):
        own_launch_text("shop", "say")


def test_a_clone_knows_its_repository(repository: GitRepository, project: Callable[..., Any], tmp_path: Path) -> None:
    flow = project(repository)
    git(repository.clone, "remote", "set-url", "origin", repository.url)
    ref = register(Git(), flow)
    assert Pin.parse(ref.location).url == repository.url
    assert Pin.parse(ref.location).ref == "main"
    assert run(ref, tmp_path) == "one"


@pytest.mark.parametrize(
    "address",
    ["ext::sh -c id", "https://u:p@host/x.git", "-oProxyCommand=id", "https://host/x?token=1", "git@host:-x", "ftp://h/x",
     "https://token@host/x", "x y", "", "relative/path/deep"],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_url(address)
    assert "u:p" not in str(refused.value)
    assert "token@" not in str(refused.value)


def test_prefect_1_arguments() -> None:
    storage = Git(
        "flows/a.py", "shop/etl", git_token_secret_name="T", tag="v1", clone_depth=1, flow_name="a", labels=[]
    )
    assert storage.url == "https://github.com/shop/etl.git"
    assert Git("a.py", "shop/etl", repo_host="git.example.org", use_ssh=True).url == "git@git.example.org:shop/etl.git"
    for wrong, way in (({"secrets": ["A"]}, "PrefectSecret"), ({"labels": ["a"]}, "run config")):
        with pytest.raises(InvalidArgumentError, match=way):
            Git("a.py", "shop/etl", **wrong)
    with pytest.raises(InvalidArgumentError, match="only one"):
        Git("a.py", "shop/etl", tag="a", commit="b")
