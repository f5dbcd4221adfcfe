"""GitHub, GitLab and Bitbucket Cloud storage on doubles of their APIs over real repositories."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import tarfile
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.commits import register, run, write_awkward_tree, write_flow
from tests.contract.storages.hosts import member, with_member
from tests.support import ends
from tests.support.bitbucket import BitbucketDouble
from tests.support.bitbucket_cloud import BitbucketCloudDouble
from tests.support.git_host import TOKEN, Fault, HostDouble, HostRepository, Told
from tests.support.git_http import git
from tests.support.github import GitHubDouble, recorded
from tests.support.gitlab import ROOT

from heliograph.client.diagnosis import storage_finding
from heliograph.config import set_temporary_config
from heliograph.context import context
from heliograph.exceptions import StorageError
from heliograph.storage import Bitbucket, Git, GitHub, GitLab, from_reference, http_client
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
        if isinstance(self.double, BitbucketCloudDouble):
            workspace, _, repo = name.partition("/")
            return Bitbucket("", repo, workspace, self.double.site(), **options)
        return GitLab(name, host=self.double.site(), **options)

    @property
    def archive(self) -> str:
        """What the addresses of its archives have, and no others."""
        return {"github": "tarball", "gitlab": "/archive", "bitbucket": "/get/"}[self.double.kind]


@pytest.fixture(params=["github", "gitlab", "bitbucket_cloud"])
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
        if isinstance(double, BitbucketCloudDouble):
            double.too_deep, double.no_bearers = False, None


@pytest.fixture
def logged_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An agent whose owner has bound a token to the server."""
    monkeypatch.setenv("HELIOGRAPH__SECRETS__READ", TOKEN)
    with set_temporary_config({"storage.tokens": [f"{host.double.address()}=READ"]}):
        yield


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
    flow = write_awkward_tree(repository)
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


@pytest.mark.parametrize("host", ["github", "gitlab"], indirect=True)  # Bitbucket Cloud has no such thing
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
        barrier.wait(60)
        folders.append(storage.fetch(ref, cache))

    ends.together(partial(fetch, tmp_path / f"{number % 2}") for number in range(4))
    assert len(folders) == 4
    assert len(set(folders)) == 2
    archives = [path for path in host.double.asked_of() if host.archive in path]
    assert len(archives) == 3, "one at registration, and one for each agent's cache"


def test_the_doctor_says_whether_a_repository_can_be_read(host: Host, logged_in: None) -> None:
    repository = host.repository(private=True)
    commit = repository.commit({"a": "b"})
    root = f"#root={ROOT.strip('/')}" if host.double.kind == "gitlab" else ""
    found = storage_finding(f"{host.double.kind}:{repository.url}{root}")
    assert found.good
    assert f"main is at {commit[:12]}" in found.said
    assert TOKEN not in found.said
    lost = storage_finding(f"{host.double.kind}:{repository.url}-lost{root}")
    assert lost.good is False
    assert "or the token may not see it" in lost.said
    assert lost.advice


# --- servers that are busy, broken or hostile ------------------------------------------------------------------------


def busy(status: int, **headers: str) -> Told:
    return Told.of(status, {"message": "API rate limit exceeded", "documentation_url": "x"}, **headers)


def test_a_busy_server_is_asked_again_when_it_says(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    flow = write_flow(repository)
    about, commit, tree = {
        "github": ("/shop", "commits/", "/tree"), "gitlab": ("shop%2F", "commits/", "/tree"),
        "bitbucket": ("/shop", "/commit/", "/src/"),
    }[host.double.kind]  # fmt: skip
    asked_for_quiet = busy(429, retry_after="0") if host.double.kind == "github" else busy(429)
    host.double.faults += [Fault(about, asked_for_quiet), Fault(commit, busy(503)), Fault(tree, Told.of(502, {}))]
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


def test_an_archive_that_is_small_and_endless_is_refused(host: Host, tmp_path: Path) -> None:
    repository = host.repository()
    ref = register(host.storage(repository), write_flow(repository))
    host.double.change = with_member(member("zeros"), bytes(30_000_000))
    with set_temporary_config({"storage.archive_limit_bytes": 1_000_000}):
        with pytest.raises(StorageError, match="unpacks to more than 1,000,000 bytes") as refused:
            run(ref, tmp_path)
        assert "storage.archive_limit_bytes" in refused.value.hint
    host.double.change = with_member(member("x" * 2_000_000))
    with pytest.raises(StorageError, match="more than a megabyte"):
        run(ref, tmp_path)
    assert not list(tmp_path.rglob("*.py"))


# --- where tokens go -------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(host: Host) -> str:
    """A server of somebody else's, which serves the archives too. Returns its address."""
    if "elsewhere" not in host.double._servers:
        host.double.serve("elsewhere", lambda asked: host.double.pages.get(asked.path, Told(404)))
    return f"http://localhost:{host.double.address('elsewhere').rpartition(':')[2]}"


def leaks(host: Host) -> list[str]:
    """Returns the requests to other servers than the API that had the token with them."""
    return [
        one.path
        for one in host.double.asked
        if one.server != "api" and TOKEN in f"{one.path} {sorted(one.headers.items())}"
    ]


def test_a_token_follows_no_redirection_to_another_server(
    host: Host, elsewhere: str, tmp_path: Path, logged_in: None
) -> None:
    repository = host.repository(private=True)
    ref = register(host.storage(repository), write_flow(repository))
    commit = Pin.parse(ref.location).commit
    archive = repository.archive(commit, "x")
    host.double.pages[f"/{commit}"] = Told(200, archive)
    host.double.faults.append(Fault(host.archive, Told(302, headers={"location": f"{elsewhere}/{commit}"})))
    assert run(ref, tmp_path) == "one", "what is right is right, wherever it comes from"
    assert host.double.asked_of("elsewhere") == [f"/{commit}"]
    # There and back again: who was sent away gets no token any more, so this is as good as a stranger's request.
    host.double.pages["/back"] = Told(302, headers={"location": f"http://{host.double.address()}/again"})
    host.double.faults.append(Fault(host.archive, Told(302, headers={"location": f"{elsewhere}/back"})))
    if isinstance(host.double, BitbucketCloudDouble):
        assert run(ref, tmp_path / "b") == "one", "without an archive it is one file after another"
    else:
        with pytest.raises(StorageError, match="answers 404"):
            run(ref, tmp_path / "b")
    (again,) = (one for one in host.double.asked if one.path == "/again")
    assert "authorization" not in again.headers
    assert not leaks(host)


def test_the_test_sees_a_token_that_follows(
    host: Host, elsewhere: str, tmp_path: Path, logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the test before: a client that takes its token along everywhere is found."""
    repository = host.repository(private=True)
    ref = register(host.storage(repository), write_flow(repository))
    monkeypatch.setattr(http_client, "_origin", lambda _: ("", "", 0))
    host.double.faults.append(Fault(host.archive, Told(302, headers={"location": f"{elsewhere}/x"})))
    with suppress(StorageError):  # Bitbucket Cloud's files are then asked for one by one
        run(ref, tmp_path)
    assert leaks(host)


def test_nothing_is_asked_in_the_open(host: Host, tmp_path: Path, logged_in: None) -> None:
    repository = host.repository(private=True)
    ref = register(host.storage(repository), write_flow(repository))
    host.double.faults.append(Fault(host.archive, Told(302, headers={"location": "http://archives.example.org/x"})))
    with pytest.raises(StorageError, match=r"archives\.example\.org/x is not encrypted"):
        run(ref, tmp_path)


def test_requests_go_through_the_machines_proxy(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that is not this machine: the proxy is asked for a tunnel, and sees no token."""
    seen: list[str] = []

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def proxy() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536).decode("latin-1"))
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=proxy, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setattr(http_client, "_TRIES", 1)
        flow = write_flow(host.repository())
        storage = (
            GitHub("shop/x", base_url="https://forge.test/api/v3", access_token_secret="READ")
            if host.double.kind == "github"
            else GitLab("shop/x", host="forge.test", access_token_secret="READ")
            if host.double.kind == "gitlab"
            else Bitbucket("", "x", "shop", "forge.test", access_token_secret="READ")
        )
        with context(secrets={"READ": TOKEN}), pytest.raises(StorageError, match=r"forge\.test cannot be reached"):
            storage.make_bundle(flow)
    assert seen[0].startswith("CONNECT forge.test:443 ")
    assert TOKEN not in "".join(seen)


def test_the_double_answers_as_github_did(github: GitHubDouble) -> None:
    """The double's answers beside recorded ones: the same fields of the same types, the same headers and addresses."""
    repository = github.repository(f"shop/d{uuid.uuid4().hex[:8]}", private=True)
    commit = repository.commit({"README.md": "# hello-world"})

    def asked(address: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        place = urllib.parse.urlsplit(address)
        connection = http.client.HTTPConnection(place.netloc, timeout=60)
        connection.request("GET", f"{place.path}?{place.query}", headers={"Accept": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()

    def kinds(document: dict[str, Any]) -> dict[str, type]:
        return {name: type(value) for name, value in document.items() if value is not None and name != "organization"}

    base = f"{github.base_url}/repos/{repository.name}"
    login = {"authorization": f"token {TOKEN}"}
    (shape,) = recorded("get-repository")
    status, headers, body = asked(base, **login)
    assert (status, headers["content-type"]) == (shape["status"], shape["headers"]["content-type"])
    told = json.loads(body)
    assert kinds(shape["response"]).items() <= kinds(told).items()
    assert told["full_name"] == repository.name
    limits = {name for name in shape["headers"] if name.startswith("x-ratelimit")}
    assert limits <= headers.keys()

    sent, archive = recorded("get-archive")
    status, headers, body = asked(f"{base}/tarball/{commit}", **login)
    assert (status, body) == (sent["status"], b"")
    assert headers["content-type"] == sent["headers"]["content-type"]
    there = urllib.parse.urlsplit(sent["headers"]["location"])
    here = urllib.parse.urlsplit(headers["location"])
    assert here.path == there.path.replace("octokit-fixture-org/get-archive", repository.name).replace(
        "refs/heads/main", commit
    )
    status, headers, body = asked(headers["location"])
    assert (status, headers["content-type"]) == (archive["status"], archive["headers"]["content-type"])
    named = archive["headers"]["content-disposition"].replace("octokit-fixture-org-get-archive-0000000", "{}")
    top = f"{repository.name.replace('/', '-')}-{commit[:7]}"
    assert headers["content-disposition"] == named.format(top)
    with tarfile.open(fileobj=io.BytesIO(body)) as ours:
        assert ours.getnames() == [top, f"{top}/README.md"]

    moved = next(one for one in recorded("rename-repository") if one["status"] == 301)
    old, new = repository.name, f"{repository.name}-new"
    github.rename(repository, new)
    status, headers, body = asked(f"{github.base_url}/repos/{old}", **login)
    assert (status, kinds(json.loads(body))) == (301, kinds(moved["response"]))
    assert headers["location"] == f"{github.base_url}/repositories/{repository.number}"
    (wrong,) = recorded("errors")
    status, _, body = asked(f"{github.base_url}/repos/{new}")
    assert status == 404, "a private repository is nobody's business"
    assert {"message", "documentation_url"} <= wrong["response"].keys() & json.loads(body).keys()
    assert not github.violations


def test_bitbucket_servers(bitbucket: BitbucketDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is another way there than at GitHub: names of refs, and archives that are taken at their word."""
    repository = bitbucket.repository(f"ETL/b{uuid.uuid4().hex[:8]}", private=True)
    repository.commit({"outside.txt": "x"})
    repository.write({"in/.gitmodules": '[submodule "v"]\n\tpath = vendored\n\turl = https://example.org/v.git\n'})
    flow = write_flow(repository, folder="in/")
    git(repository.clone, "tag", "-a", "v1", "-m", "x")
    git(repository.clone, "push", "-q", "origin", "v1")
    monkeypatch.setenv("HELIOGRAPH__SECRETS__READ", TOKEN)
    slug = repository.name.partition("/")[2]

    def storage(**options: Any) -> Bitbucket:
        return Bitbucket("ETL", slug, host=bitbucket.site(), access_token_secret="READ", subdir="in", **options)

    bundle = storage(ref="v1").make_bundle(flow)
    assert any("submodules are not fetched: vendored" in warning for warning in bundle.report.warnings)
    ref = register(storage(), flow)
    tag = register(storage(ref="v1"), flow)
    assert (Pin.parse(ref.location).ref, Pin.parse(tag.location).ref) == ("main", "v1")
    assert ref.digest == tag.digest
    with pytest.raises(StorageError, match="no branch or tag 'next'"):
        storage(ref="next").make_bundle(flow)
    with set_temporary_config({"storage.tokens": [f"{bitbucket.address()}/projects/ETL=READ"]}):
        folder = from_reference(ref.storage, ref.location).fetch(ref, tmp_path)
        assert not (folder / "outside.txt").exists()
        assert run(tag, tmp_path) == "one"
        git(repository.clone, "push", "-q", "origin", ":v1")
        repository.forget()
        with pytest.raises(StorageError, match=r"is not in .* any more"):
            run(ref, tmp_path / "new")
        del bitbucket.repositories[repository.name]
        with pytest.raises(StorageError, match="or the token may not see it"):
            run(ref, tmp_path / "new")
