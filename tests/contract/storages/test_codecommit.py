"""CodeCommit storage on a double of the service over real repositories: what is pinned, and what is fetched."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.storages.commits import register, run, write_awkward_tree, write_flow
from tests.support.codecommit import REGION, CodeCommitDouble
from tests.support.git_host import Fault, HostRepository, Told
from tests.support.git_http import git

from heliograph.client.diagnosis import storage_finding
from heliograph.config import set_temporary_config
from heliograph.exceptions import ConfigurationError, InvalidArgumentError, StorageError
from heliograph.storage import CodeCommit, Git, from_reference
from heliograph.storage.pin import Pin


@pytest.fixture
def repository(codecommit: CodeCommitDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostRepository]:
    """An empty repository, and the variables that lead to it."""
    for name, value in codecommit.environment.items():
        monkeypatch.setenv(name, value)
    codecommit.asked.clear()
    yield codecommit.repository(f"r.{uuid.uuid4().hex[:8]}")
    codecommit.twist = None
    codecommit.faults.clear()


def test_runs_have_the_commit_of_registration(repository: HostRepository, tmp_path: Path) -> None:
    flow = write_flow(repository)
    commit = git(repository.clone, "rev-parse", "HEAD")
    ref = register(CodeCommit(repository.name), flow)
    pin = Pin.parse(ref.location)
    assert (pin.commit, pin.ref, pin.url) == (commit, "main", f"codecommit://{REGION}/{repository.name}")
    assert (ref.storage, ref.host) == ("codecommit", "")
    helper = next(repository.clone.glob("helper_*.py"))
    repository.commit({helper.name: "WORD = 'two'\n"})
    assert run(ref, tmp_path / "kept") == "one"
    repository.forget()
    with pytest.raises(StorageError, match=r"is not in .* any more") as gone:
        run(ref, tmp_path / "new")
    assert "register the flow again" in gone.value.hint
    assert run(ref, tmp_path / "kept") == "one", "what was fetched needs the service no more"


def test_the_bundle_is_what_git_storage_makes_of_the_commit(repository: HostRepository, tmp_path: Path) -> None:
    flow = write_awkward_tree(repository)
    with set_temporary_config({"storage.git_protocols": ["file"]}):
        same = Git(repo=str(repository.bare)).make_bundle(flow)
    storage = CodeCommit(repository.name)
    bundle = storage.make_bundle(flow)
    assert bundle.contents == same.contents
    assert bundle.manifest.digest == same.manifest.digest
    assert set(bundle.report.dropped) == {("link", "a symbolic link"), ("vendored", "a submodule")}
    assert any("big.bin is a pointer of Git LFS" in warning for warning in bundle.report.warnings)
    assert any("submodules are not fetched: vendored" in warning for warning in bundle.report.warnings)
    ref = storage.put_bundle(bundle)
    folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path)
    assert os.access(folder / "run.sh", os.X_OK)
    assert not (folder / "link").is_symlink()


def test_branches_tags_and_references(repository: HostRepository, tmp_path: Path) -> None:
    name = repository.name
    with pytest.raises(StorageError, match="no commit yet"):
        CodeCommit(name).make_bundle(write_flow(repository, push=False))
    repository.commit({"outside.txt": "x"})
    flow = write_flow(repository, folder="in/flows/")
    first = git(repository.clone, "rev-parse", "HEAD")
    git(repository.clone, "tag", "-a", "v1", "-m", "x")
    git(repository.clone, "push", "-q", "origin", "v1", "HEAD:refs/heads/feature/a%2Fb", "HEAD:refs/heads/both")
    for ref in ("v1", "refs/tags/v1", "refs/heads/main", "feature/a%2Fb", "main", first):
        storage = CodeCommit(name, commit=ref)
        storage.make_bundle(flow)
        assert Pin.parse(storage.location).commit == first, ref
    ref = register(CodeCommit(name, commit="v1", subdir="in/flows"), flow)
    with pytest.raises(StorageError, match="no branch or tag 'next'"):
        CodeCommit(name, commit="next").make_bundle(flow)
    with pytest.raises(StorageError, match="no folder 'in/nothing'"):
        CodeCommit(name, subdir="in/nothing").make_bundle(flow)
    second = repository.commit({"later.txt": "x"})
    git(repository.clone, "push", "-q", "origin", "HEAD:refs/tags/both")
    with pytest.raises(StorageError, match="a branch and a tag with the name 'both'") as both:
        CodeCommit(name, commit="both").make_bundle(flow)
    assert "refs/heads/" in both.value.hint
    storage = CodeCommit(name, commit="refs/tags/both")
    storage.make_bundle(flow)
    assert Pin.parse(storage.location).commit == second
    folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path)
    assert not (folder / "outside.txt").exists()
    assert run(ref, tmp_path) == "one"


def test_a_followed_branch_says_its_commit(repository: HostRepository, tmp_path: Path) -> None:
    ref = register(CodeCommit(repository.name, commit="main", pin="branch"), write_flow(repository))
    helper = next(repository.clone.glob("helper_*.py"))
    commit = repository.commit({helper.name: "WORD = 'two'\n"})
    reader = from_reference(ref.storage, ref.location)
    reader.fetch(ref, tmp_path)
    assert reader.remarks() == [f"the code is commit {commit} of main"]
    assert run(ref, tmp_path) == "two"


def test_throttling_is_waited_out(repository: HostRepository, codecommit: CodeCommitDouble, tmp_path: Path) -> None:
    ref = register(CodeCommit(repository.name), write_flow(repository))
    slow = Told.of(400, {"__type": "ThrottlingException", "message": "Rate exceeded"})
    codecommit.faults += [Fault(name, slow) for name in ("GetCommit", "GetFolder", "GetBlob")]
    assert run(ref, tmp_path) == "one"
    assert not any(fault.times for fault in codecommit.faults)


def test_what_the_service_cannot_give_says_the_way(
    repository: HostRepository, codecommit: CodeCommitDouble, tmp_path: Path
) -> None:
    flow = write_flow(repository)
    repository.commit({"large.txt": "x" * (6 * 1024 * 1024 + 1)})
    with pytest.raises(StorageError, match="FileTooLarge") as large:
        CodeCommit(repository.name).make_bundle(flow)
    assert "Git storage" in large.value.hint
    git(repository.clone, "rm", "-q", "large.txt")
    repository.commit()
    key = Told.of(400, {"__type": "EncryptionKeyAccessDeniedException", "message": "no"})
    codecommit.faults.append(Fault("GetBlob", key, times=99))
    with pytest.raises(StorageError, match="cannot be read") as locked:
        CodeCommit(repository.name).make_bundle(flow)
    assert "kms:Decrypt" in locked.value.hint
    codecommit.faults.clear()
    with set_temporary_config({"storage.http_timeout_seconds": 0.0}), pytest.raises(StorageError, match="longer than"):
        CodeCommit(repository.name).make_bundle(flow)


def test_more_files_than_a_bundle_has_are_not_fetched(
    repository: HostRepository, codecommit: CodeCommitDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.storage.codecommit.MAX_FILES", 50)
    flow = write_flow(repository)

    def endless(operation: str, told: dict[str, object]) -> dict[str, object]:
        if operation == "GetFolder":
            folder = [{"relativePath": f"{n}", "absolutePath": f"{n}", "treeId": "0" * 40} for n in range(51)]
            return {**told, "subFolders": folder}
        return told

    codecommit.twist = endless
    with pytest.raises(StorageError, match="more than 50 files") as many:
        CodeCommit(repository.name).make_bundle(flow)
    assert "subdir" in many.value.hint
    assert codecommit.asked_of().count("GetBlob") == 0


def test_the_region_is_registered_and_nothing_else_of_the_client(
    repository: HostRepository, codecommit: CodeCommitDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flow = write_flow(repository)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="no region is given for CodeCommit") as nowhere:
        CodeCommit(repository.name).make_bundle(flow)
    assert "AWS_DEFAULT_REGION" in nowhere.value.hint
    endpoint = os.environ["AWS_ENDPOINT_URL_CODECOMMIT"]
    monkeypatch.delenv("AWS_ENDPOINT_URL_CODECOMMIT")
    options = {"region_name": "us-east-2", "endpoint_url": endpoint}
    ref = register(CodeCommit(repository.name, client_options=options), flow)
    assert ref.location.startswith(f"codecommit://us-east-2/{repository.name}#")
    assert endpoint not in ref.location
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODECOMMIT", endpoint)
    codecommit.asked.clear()
    assert run(ref, tmp_path) == "one"
    assert all("/us-east-2/codecommit/" in one.headers["authorization"] for one in codecommit.asked)


def test_the_doctor_says_whether_a_repository_can_be_read(repository: HostRepository) -> None:
    commit = repository.commit({"a": "b"})
    found = storage_finding(f"codecommit:codecommit://{REGION}/{repository.name}")
    assert found.good
    assert f"main is at {commit[:12]}" in found.said
    lost = storage_finding(f"codecommit:codecommit://{REGION}/{repository.name}-lost")
    assert lost.good is False
    assert "is not there" in lost.said


@pytest.mark.parametrize("location", ["codecommit://here/r", "codecommit://eu-west-1", "https://eu-west-1/r",
                                      "codecommit://eu-west-1/a/b", "codecommit://eu-west-1/a%20b"])  # fmt: skip
def test_what_is_no_location(location: str) -> None:
    with pytest.raises(StorageError):
        from_reference("codecommit", f"{location}#commit={'1' * 40}&path=a.py&flow=a")
    for name in ("", "a/b", "..", "x" * 101):
        with pytest.raises(InvalidArgumentError):
            CodeCommit(name)


def test_the_least_rights_of_the_page_are_the_calls_that_are_made(
    repository: HostRepository, codecommit: CodeCommitDouble, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs/storages/codecommit.md").read_text()
    (policy,) = (json.loads(text.partition("```")[0]) for text in page.split("```json\n")[1:])
    allowed = {action.removeprefix("codecommit:") for one in policy["Statement"] for action in one["Action"]}
    ref = register(CodeCommit(repository.name), write_flow(repository))
    assert run(ref, tmp_path) == "one"
    assert set(codecommit.asked_of()) == allowed
