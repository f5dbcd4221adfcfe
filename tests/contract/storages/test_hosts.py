"""GitHub and GitLab storage on doubles of their APIs over real repositories: what is pinned, and what is fetched."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.commits import register, run, write_flow
from tests.support.git_host import TOKEN, Fault, HostDouble, HostRepository, Told
from tests.support.git_http import git
from tests.support.github import GitHubDouble

from heliograph.config import set_temporary_config
from heliograph.context import context
from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage import Git, GitHub, GitLab, from_reference
from heliograph.storage.base import BundleRef
from heliograph.storage.pin import Pin
from heliograph.storage.repository import Repository
from heliograph.storage.web import RateLimitError


class Host:
    """One kind of server under test: how its storage is written."""

    def __init__(self, double: HostDouble) -> None:
        self.double = double

    def repository(self, *, private: bool = False) -> HostRepository:
        return self.double.repository(f"shop/r{uuid.uuid4().hex[:8]}", private=private)

    def storage(self, repository: HostRepository | str, **options: Any) -> Repository:
        name = repository if isinstance(repository, str) else repository.name
        if isinstance(self.double, GitHubDouble):
            return GitHub(name, base_url=self.double.base_url, **options)
        return GitLab(name, host=self.double.site(), **options)


@pytest.fixture(params=["github", "gitlab"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    double: HostDouble = request.getfixturevalue(request.param)
    double.asked.clear()
    try:
        yield Host(double)
        assert not double.violations
    finally:
        double.faults.clear()
        double.change = None
        double.violations.clear()
        if isinstance(double, GitHubDouble):
            double.elsewhere = ""


@pytest.fixture
def logged_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent whose owner has bound a token to the server."""
    monkeypatch.setenv("HELIOGRAPH__SECRETS__READ", TOKEN)
    with set_temporary_config({"storage.tokens": [f"{host.double.address()}=READ"]}):
        yield


def only(reference: BundleRef, **changes: Any) -> BundleRef:
    return BundleRef(**({name: getattr(reference, name) for name in reference.__slots__} | changes))


def test_runs_have_the_commit_of_registration(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    commit = git(repository.clone, "rev-parse", "HEAD")
    ref = register(host.storage(repository), flow)
    pin = Pin.parse(ref.location)
    assert (pin.commit, pin.ref, pin.url) == (commit, "main", repository.url)
    assert (ref.storage, ref.host) == (host.double.kind, "")
    helper = next(repository.clone.glob("helper_*.py"))
    repository.commit({helper.name: "WORD = 'two'\n"})
    assert run(ref, tmp_path / "a") == "one"
    # A rewritten branch: the server still gives the commit, though no branch has it.
    git(repository.clone, "checkout", "-q", "--orphan", "other")
    repository.commit()
    git(repository.clone, "push", "-q", "-f", "origin", "other:main")
    assert run(ref, tmp_path / "b") == "one"


def test_a_commit_that_the_server_tidied_away_is_said_with_what_to_do(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    ref = register(host.storage(repository), write_flow(repository))
    assert run(ref, tmp_path / "kept") == "one"
    repository.forget()
    with pytest.raises(StorageError, match=f"commit {Pin.parse(ref.location).commit} is not in .* any more") as gone:
        run(ref, tmp_path / "new")
    assert "register the flow again" in gone.value.hint
    asked = len(host.double.asked)
    assert run(ref, tmp_path / "kept") == "one", "what was fetched needs the server no more"
    assert len(host.double.asked) == asked


def test_the_bundle_is_what_git_storage_makes_of_the_commit(host: Host, tmp_path: Path) -> None:
    """However the server makes its archives: rules of `.gitattributes` would leave files out and change others."""
    repository = host.repository()
    repository.write(
        {
            ".gitattributes": "hidden.txt export-ignore\nwhen.txt export-subst\n*.win eol=crlf\n",
            "hidden.txt": "needed", "when.txt": "$Format:%H %ad$", "a.win": "one\ntwo\n", "run.sh": "#!/bin/sh\n",
            "big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "sp ace/ü.txt": "x",
            "empty.txt": "", "deep/er/x.txt": "x",
        }
    )  # fmt: skip
    (repository.clone / "run.sh").chmod(0o755)
    (repository.clone / "link").symlink_to("/etc/passwd")
    flow = write_flow(repository)
    git(repository.clone, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored")
    git(repository.clone, "commit", "-qm", "x")
    git(repository.clone, "push", "-q", "origin", "HEAD")
    (repository.clone / "vendored").mkdir()
    with set_temporary_config({"storage.git_protocols": ["file"]}):
        same = Git(repo=str(repository.bare)).make_bundle(flow)
    storage = host.storage(repository)
    bundle = storage.make_bundle(flow)
    assert bundle.contents == same.contents
    assert bundle.manifest.digest == same.manifest.digest
    assert set(bundle.report.dropped) == {("link", "a symbolic link"), ("vendored", "a submodule")}
    assert any("big.bin is a pointer of Git LFS" in warning for warning in bundle.report.warnings)
    assert any("submodules are not fetched: vendored" in warning for warning in bundle.report.warnings)
    ref = storage.put_bundle(bundle)
    folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path)
    assert os.access(folder / "run.sh", os.X_OK)
    assert (folder / "hidden.txt").read_text() == "needed"
    assert not (folder / "link").is_symlink()


def test_a_folder_of_a_repository_and_a_tag(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    repository.commit({"secret-plans.txt": "x", **{f"in/flows/many/{number}.txt": "x" for number in range(120)}})
    flow = write_flow(repository, folder="in/flows/")
    git(repository.clone, "tag", "-a", "v1", "-m", "x")
    git(repository.clone, "push", "-q", "origin", "v1")
    ref = register(host.storage(repository, ref="v1", subdir="in/flows"), flow)
    folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert "secret-plans.txt" not in names
    assert {f"many/{number}.txt" for number in range(120)} < names, "every page of the list"
    with pytest.raises(StorageError, match="no folder 'in/nothing'"):
        host.storage(repository, ref="v1", subdir="in/nothing").make_bundle(flow)
    assert run(ref, tmp_path) == "one"


def test_names_that_mean_nothing_or_two_things_are_refused(host: Host) -> None:
    repository = host.repository()
    with pytest.raises(StorageError, match="no commit yet"):
        host.storage(repository).make_bundle(write_flow(repository, push=False))
    flow = write_flow(repository)
    with pytest.raises(StorageError, match="no branch or tag 'next'"):
        host.storage(repository, ref="next").make_bundle(flow)
    git(repository.clone, "push", "-q", "origin", "HEAD:refs/heads/both")
    repository.commit()
    git(repository.clone, "push", "-q", "origin", "HEAD:refs/tags/both")
    with pytest.raises(StorageError, match="a branch and a tag with the name 'both'"):
        host.storage(repository, ref="both").make_bundle(flow)
    git(repository.clone, "push", "-q", "origin", "HEAD:refs/heads/feature/a%2Fb")
    register(host.storage(repository, ref="feature/a%2Fb"), flow)


def test_what_is_not_pushed_is_refused_with_what_to_do(host: Host) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    helper = next(repository.clone.glob("helper_*.py"))
    helper.write_text("WORD = 'dirty'\n")
    with pytest.raises(StorageError, match="not committed: helper_"):
        register(host.storage(repository), flow)
    git(repository.clone, "commit", "-qam", "x")
    with pytest.raises(StorageError, match="another helper_") as unpushed:
        register(host.storage(repository), flow)
    assert "not pushed" in unpushed.value.hint


def test_a_private_repository_wants_a_token_that_is_told_to_nobody(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repository = host.repository(private=True)
    flow = write_flow(repository)
    with pytest.raises(StorageError, match="is not there, or is private") as nobody:
        register(host.storage(repository), flow)
    assert f"{host.double.address()}=NAME_OF_SECRET" in nobody.value.hint
    host.double.tokens["narrow-token-81f2"] = {"shop/other"}
    told = [str(nobody.value)]
    with context(secrets={"READ": TOKEN, "NARROW": "narrow-token-81f2", "WRONG": "wrong-token-77aa"}):
        ref = register(host.storage(repository, access_token_secret="READ"), flow)
        with pytest.raises(StorageError, match="is private"):  # no secret is sent that the agent's owner did not bind
            run(ref, tmp_path / "a")
        for name, said in (("NARROW", "or the token may not see it"), ("WRONG", "answers 401")):
            bound = set_temporary_config(
                {"storage.tokens": [f"{host.double.address()}=READ", f"{pin_host(ref)}={name}"]}
            )
            with bound, pytest.raises(StorageError, match=said) as refused:
                run(ref, tmp_path / "a")
            told += [str(refused.value), refused.value.hint]
        with set_temporary_config({"storage.tokens": [f"{host.double.address()}=READ"]}):
            assert run(ref, tmp_path / "b") == "one"
    told += [str(ref), caplog.text, *(one.path for one in host.double.asked)]
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "b").rglob("*") if path.is_file())
    for token in (TOKEN, "narrow-token-81f2", "wrong-token-77aa"):
        assert token not in " ".join(told) + kept
    assert "READ" not in ref.location
    assert not [one for one in host.double.asked if one.server == "files" and "authorization" in one.headers]


def pin_host(ref: BundleRef) -> str:
    return Pin.parse(ref.location).url.partition("://")[2]


def test_a_followed_branch_warns_and_says_its_commit(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    storage = host.storage(repository, ref="main", pin="branch")
    bundle = storage.make_bundle(flow)
    assert any("whoever can push decides" in warning for warning in bundle.report.warnings)
    ref = storage.put_bundle(bundle)
    helper = next(repository.clone.glob("helper_*.py"))
    commit = repository.commit({helper.name: "WORD = 'two'\n"})
    reader = from_reference(ref.storage, ref.location)
    reader.fetch(ref, tmp_path)
    assert reader.remarks() == [f"the code is commit {commit} of main"]
    assert run(ref, tmp_path) == "two"


def test_another_commit_than_the_registered_one_is_refused(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    ref = register(host.storage(repository), write_flow(repository))
    pin = Pin.parse(ref.location)
    other = repository.commit({pin.path: "print('evil')\n"})
    with pytest.raises(BundleChangedError, match="registered with"):
        run(only(ref, location=pin.at(other).location()), tmp_path)
    assert not list((tmp_path / "bundles").glob("[0-9a-f]*/"))


def test_a_renamed_repository_is_found_but_no_branch_is_followed_there(
    host: Host, tmp_path: Path, logged_in: None
) -> None:
    repository = host.repository(private=True)
    flow = write_flow(repository)
    ref = register(host.storage(repository), flow)
    following = register(host.storage(repository, ref="main", pin="branch"), flow)
    old, new = repository.name, f"shop/new-{uuid.uuid4().hex[:8]}"
    host.double.rename(repository, new)
    with pytest.raises(StorageError, match=f"is {new} now") as moved:
        run(following, tmp_path)
    assert "Register the flow again" in moved.value.hint
    storage = host.storage(old)
    bundle = storage.make_bundle(flow)
    assert any(f"is {new} now" in warning for warning in bundle.report.warnings)
    assert Pin.parse(storage.put_bundle(bundle).location).url.endswith(f"/{new}")
    assert run(ref, tmp_path) == "one", "the digest says that it is the same"


def test_an_archived_repository_is_said(host: Host) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    repository.archived = True
    assert any("is archived" in warning for warning in host.storage(repository).make_bundle(flow).report.warnings)


def test_two_agents_fetch_at_once(host: Host, tmp_path: Path, logged_in: None) -> None:
    repository = host.repository(private=True)
    ref = register(host.storage(repository), write_flow(repository))
    folders: list[Path] = []
    barrier = threading.Barrier(4)

    def fetch(cache: Path) -> None:
        storage = from_reference(ref.storage, ref.location)
        barrier.wait()
        folders.append(storage.fetch(ref, cache))

    threads = [threading.Thread(target=fetch, args=(tmp_path / f"{number % 2}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert len(set(folders)) == 2
    archives = [path for path in host.double.asked_of() if "tarball" in path or "/archive" in path]
    assert len(archives) == 3, "one at registration, and one for each agent's cache"


# --- servers that are busy, broken or hostile ------------------------------------------------------------------------


def busy(status: int, **headers: str) -> Told:
    return Told.of(status, {"message": "API rate limit exceeded", "documentation_url": "x"}, **headers)


def test_a_busy_server_is_asked_again_when_it_says(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    host.double.faults += [
        Fault("/shop", busy(429, retry_after="0")) if host.double.kind == "github" else Fault("shop%2F", busy(429)),
        Fault("commits/", busy(503)),
        Fault("/tree", Told.of(502, {})),
    ]
    assert run(register(host.storage(repository), flow), tmp_path) == "one"
    assert not any(fault.times for fault in host.double.faults)


@pytest.mark.parametrize("prefix", ["x-ratelimit", "ratelimit"])
def test_a_limit_that_lasts_is_said_with_its_end(host: Host, prefix: str) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    headers = {
        f"{prefix}-remaining": "0",
        f"{prefix}-reset": "1790000000",
        "date": "Mon, 21 Sep 2026 13:00:00 GMT",
    }
    host.double.faults.append(Fault("shop", busy(403, **headers), times=99))
    with pytest.raises(RateLimitError, match="no more requests until 2026-09-21 14:13:20 UTC") as limited:
        register(host.storage(repository), flow)
    assert "storage.tokens" in limited.value.hint
    assert len(host.double.asked_of()) == 1, "a server that asks for quiet gets it"


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {}


def test_an_archive_that_ends_too_early_is_fetched_again(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    repository.write({"noise.bin": os.urandom(3000).hex()})
    flow = write_flow(repository)
    ref = register(host.storage(repository), flow)
    cuts = iter([300, 0])

    def cut(data: bytes) -> bytes:
        length = next(cuts)
        return data[:length] if length else data

    host.double.change = cut
    assert run(ref, tmp_path) == "one"
    host.double.change = lambda data: data[: len(data) // 2]
    with pytest.raises(StorageError, match="damaged or incomplete"):
        run(ref, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.py"))
