"""Storage of hosted repositories without any server: arguments, addresses, and what answers mean."""

from __future__ import annotations

import io
import json

import pytest
from tests.support.git_host import Told
from tests.support.github import recorded, violation

from heliograph.exceptions import HeliographError, InvalidArgumentError
from heliograph.storage import Bitbucket, GitHub, GitLab, from_reference
from heliograph.storage.bitbucket_cloud import Cloud
from heliograph.storage.github import _api_of, _site_of
from heliograph.storage.hosted import git_name
from heliograph.storage.http_client import Answer
from heliograph.storage.pin import Pin
from heliograph.storage.tarball import read_archive
from heliograph.storage.web import RateLimitError, Web, reason_of

REPOSITORY = "/repos/{owner}/{repo}"


def test_prefect_1_arguments() -> None:
    hub = GitHub("shop/etl", "/flows/a.py", "main", "TOKEN", "https://ghe.example.org/api/v3", labels=[], flow_name="a")
    assert (hub.url, hub.flow_path, hub.ref) == ("https://ghe.example.org/shop/etl", "flows/a.py", "main")
    lab = GitLab("shop/sub/etl", "gitlab.example.org", "a.py", "v1", "TOKEN", stored_as_script=True)
    assert (lab.url, lab.flow_path, lab.ref) == ("https://gitlab.example.org/shop/sub/etl", "a.py", "v1")
    assert GitLab(repo="123456").url == "https://gitlab.com/123456"
    box = Bitbucket(
        "~ann", "etl", host="https://bb.example.org/git", path="a.py", ref="v1", access_token_secret="TOKEN"
    )
    assert box.url == "https://bb.example.org/git/projects/~ann/repos/etl"
    cloud = Bitbucket("ETL", "flows", "acme", cloud_username_secret="U", cloud_app_password_secret="P", ref="a/b")
    assert (cloud.url, cloud.ref) == ("https://bitbucket.org/acme/flows", "a/b")
    for make in (lambda **more: GitHub("shop/etl", **more), lambda **more: GitLab("shop/etl", **more)):
        for wrong, way in (({"secrets": ["A"]}, "PrefectSecret"), ({"labels": ["a"]}, "run config")):
            with pytest.raises(InvalidArgumentError, match=way):
                make(**wrong)
        with pytest.raises(InvalidArgumentError, match="holds no pickles"):
            make(stored_as_script=False)
        with pytest.raises(TypeError, match="unexpected"):
            make(colour="red")


@pytest.mark.parametrize(
    ("site", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://acme.ghe.com", "https://api.acme.ghe.com"),
        ("https://ghe.example.org", "https://ghe.example.org/api/v3"),
        ("https://corp.example.org/git", "https://corp.example.org/git/api/v3"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/api/v3"),
    ],
)
def test_apis_of_github_and_their_pages(site: str, api: str) -> None:
    assert _api_of(site) == api
    assert _site_of(api) == site
    location = f"{site}/shop/etl#commit={'1' * 40}&path=a.py&flow=a"
    assert from_reference("github", location).location == location


@pytest.mark.parametrize(
    "make",
    [
        lambda: GitHub("etl"),
        lambda: GitHub("shop/etl/more"),
        lambda: GitHub("shop/.."),
        lambda: GitHub("shop/a b"),
        lambda: GitHub("shop/etl?x"),
        lambda: GitHub("https://github.com/shop/etl"),
        lambda: GitHub("shop/etl", base_url="https://token@ghe.example.org/api/v3"),
        lambda: GitHub("shop/etl", base_url="http://ghe.example.org/api/v3"),
        lambda: GitHub("shop/etl", base_url="https://ghe.example.org/"),
        lambda: GitHub("shop/etl", ref="a..b"),
        lambda: GitHub("shop/etl", ref="--upload-pack=x"),
        lambda: GitLab("shop/../etl"),
        lambda: GitLab("shop/etl", host="http://gitlab.example.org"),
        lambda: GitLab("shop/etl", host="https://user:s3cr3t@gitlab.example.org"),
        lambda: Bitbucket("ETL/..", "flows", host="bb.example.org"),
        lambda: Bitbucket("ETL", "flows"),
        lambda: Bitbucket("ETL", workspace="acme"),
        lambda: Bitbucket("", "flows", host="bb.example.org"),
        lambda: Bitbucket("ETL", "flows/more", "acme"),
        lambda: Bitbucket("ETL", "flows", "acme", "https://example.org/below"),
        lambda: Bitbucket("ETL", "flows", "acme", "http://bitbucket.org"),
        lambda: Bitbucket("ETL", "flows", "acme", cloud_username_secret="U"),
        lambda: Bitbucket(
            "ETL", "flows", host="bb.example.org", cloud_username_secret="U", cloud_app_password_secret="P"
        ),
        lambda: Bitbucket(
            "ETL", "flows", "acme", access_token_secret="T", cloud_username_secret="U", cloud_app_password_secret="P"
        ),
        lambda: from_reference("bitbucket", "https://bb.example.org/flows#ref=main"),
        lambda: from_reference("bitbucket", "https://bb.example.org/a/ETL/flows#ref=main"),
        lambda: from_reference("bitbucket", "https://bb.example.org/projects/ETL/flows#ref=main"),
        lambda: from_reference("github", f"https://github.com/shop/etl/#commit={'1' * 40}"),
        lambda: from_reference("github", "https://github.com/etl#ref=main"),
        lambda: from_reference("gitlab", "https://gitlab.com/#ref=main"),
        lambda: from_reference("gitlab", "https://gitlab.com/a/b#root=c&ref=main"),
    ],
)
def test_what_is_no_address(make: object) -> None:
    with pytest.raises(HeliographError) as refused:
        make()  # type: ignore[operator]
    assert "token@" not in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


def test_a_projects_own_path_is_told_apart_from_its_servers() -> None:
    lab = GitLab("shop/etl", "https://corp.example.org/gitlab")
    assert lab._connect("").base == "https://corp.example.org/gitlab/api/v4"
    location = f"https://corp.example.org/gitlab/shop/etl#commit={'1' * 40}&root=gitlab"
    assert from_reference("gitlab", location)._base == "projects/shop%2Fetl"  # type: ignore[attr-defined]


def test_bitbucket_cloud_is_asked_at_its_api_and_archives_come_from_its_pages() -> None:
    cloud = Bitbucket("", "flows", "acme")
    assert cloud._connect("").base == "https://api.bitbucket.org/2.0"
    assert cloud._archives.base == "https://bitbucket.org"
    commit = "1" * 40
    location = f"https://bitbucket.org/acme/flows#commit={commit}&path=a.py&flow=a"
    again = from_reference("bitbucket", location)
    assert again.location == location
    assert isinstance(again, Bitbucket)
    assert again._archive(Pin.parse(location)) == (f"acme/flows/get/{commit}.tar.gz", True)
    for login, sent in (("t0k", "Bearer t0k"), ("x-token-auth:t0k", "Bearer t0k"), ("a@b.c:t0k", "Basic YUBiLmM6dDBr")):
        for web in (Cloud("https://bitbucket.org", "a/b").connect(login), Cloud("https://x.y", "a/b").archives(login)):
            assert web._credential == {"Authorization": sent}
            assert web._scrubbed("no t0k") == "no ***"


def test_an_archive_that_github_once_sent_is_read() -> None:
    _, answer = recorded("get-archive")
    found = read_archive(io.BytesIO(bytes.fromhex(answer["response"])), lambda _: True, top=True, name="it")
    assert found["README.md"].mode == "100644"
    readme = next(one for one in recorded("get-content") if one["path"].endswith("/contents/README.md"))
    listed = next(one for one in recorded("get-content") if isinstance(one["response"], list))["response"][0]
    assert git_name(readme["response"].encode(), listed["sha"]) == listed["sha"], "GitHub names files as git does"


def test_what_github_once_answered_is_what_its_documents_say() -> None:
    """The check that the double is held to takes recorded answers for right, and a wrong one for wrong."""
    (repository,) = recorded("get-repository")
    document = {**repository["response"], "has_discussions": False}  # recorded before there were any
    headers = {"content-type": repository["headers"]["content-type"]}
    assert not violation(REPOSITORY, Told(200, json.dumps(document).encode(), headers))
    moved = next(one for one in recorded("rename-repository") if one["status"] == 301)
    assert not violation(REPOSITORY, Told(301, json.dumps(moved["response"]).encode(), headers))
    assert "full_name" in violation(
        REPOSITORY, Told(200, json.dumps({**document, "full_name": None}).encode(), headers)
    )
    assert "never answers 418" in violation(REPOSITORY, Told(418, b"{}", headers))


@pytest.mark.parametrize(
    ("status", "headers", "body", "wait"),
    [
        (429, {"retry-after": "7"}, {}, 7.0),
        (429, {}, {}, 0.0),
        (403, {"retry-after": "Sun, 22 Nov 2026 22:00:30 GMT"}, {}, 30.0),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795384810"}, {}, 10.0),
        (429, {"ratelimit-remaining": "0", "ratelimit-reset": "1795384740"}, {}, 0.0),
        (403, {}, {"message": "You have exceeded a secondary rate limit. Please wait."}, 60.0),
        (403, {"x-ratelimit-remaining": "12", "x-ratelimit-reset": "1795384810"}, {"message": "Forbidden"}, None),
        (401, {}, {"message": "Bad credentials"}, None),
        (404, {"retry-after": "5"}, {}, None),
        (502, {}, {}, 0.0),
    ],
)
def test_how_long_a_server_wants_to_be_left_alone(
    status: int, headers: dict[str, str], body: dict[str, str], wait: float | None
) -> None:
    web = Web("https://api.github.com", "github.com", headers={})
    date = {"date": "Sun, 22 Nov 2026 22:00:00 GMT"}
    assert web.wait_for(Answer(status, {**date, **headers}, json.dumps(body).encode())) == wait


def test_a_server_that_wants_an_hour_is_not_waited_for() -> None:
    web = Web("https://api.github.com", "github.com", headers={}, credential={"Authorization": "x"})
    answer = Answer(403, {"date": "Sun, 22 Nov 2026 22:00:00 GMT", "retry-after": "3600"})
    with pytest.raises(RateLimitError, match="until 2026-11-22 23:00:00 UTC") as limited:
        web.wait_for(answer)
    assert "another token" in limited.value.hint


def test_reasons_are_short_and_without_the_token() -> None:
    web = Web("https://api.github.com", "github.com", headers={}, secret="t0k3n")
    for document in (
        {"message": "no t0k3n " + "x" * 500},
        {"error": {"message": "no t0k3n"}},
        {"errors": [{"message": "no t0k3n"}]},
        {"error": "insufficient t0k3n"},
    ):
        answer = Answer(403, {}, json.dumps(document).encode())
        assert reason_of(answer)
        said = str(web.refusal("https://api.github.com/x?token=y", answer))
        assert "t0k3n" not in said
        assert "token=y" not in said
        assert len(said) < 300
    assert reason_of(Answer(502, {}, b"<html>")) == ""
