"""What is another way at Bitbucket Cloud than at other hosts: logins, lists of files, and archives that are refused."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.commits import register, run, write_flow
from tests.support.bitbucket_cloud import USER, BitbucketCloudDouble
from tests.support.git_host import TOKEN, Fault, Told

from heliograph.config import set_temporary_config
from heliograph.context import context
from heliograph.exceptions import StorageError
from heliograph.storage import Bitbucket


def test_logins_of_bitbucket_cloud(bitbucket_cloud: BitbucketCloudDouble, tmp_path: Path) -> None:
    """An API token with its e-mail address, in one secret or in two as Prefect 1 had it, and an access token."""
    repository = bitbucket_cloud.repository(f"shop/l{uuid.uuid4().hex[:8]}", private=True)
    flow = write_flow(repository)
    slug = repository.name.partition("/")[2]
    secrets = {
        "USER": USER, "APP": TOKEN, "BOTH": f"{USER}:{TOKEN}", "TOKEN": TOKEN, "GIT": f"x-token-auth:{TOKEN}",
        "OTHER": f"nobody@example.org:{TOKEN}",
    }  # fmt: skip

    def storage(**options: str) -> Bitbucket:
        return Bitbucket("ETL", slug, "shop", bitbucket_cloud.site(), **options)  # type: ignore[arg-type]

    with context(secrets=secrets):
        ref = register(storage(cloud_username_secret="USER", cloud_app_password_secret="APP"), flow)
        logins = ("BOTH", "TOKEN", "GIT")
        for name in logins:
            assert register(storage(access_token_secret=name), flow) == ref
        with pytest.raises(StorageError, match="answers 401"):
            register(storage(access_token_secret="OTHER"), flow)
        for name in logins:
            with set_temporary_config({"storage.tokens": [f"{bitbucket_cloud.address()}/shop={name}"]}):
                assert run(ref, tmp_path / name) == "one"
    assert not any(name in ref.location for name in (*secrets, *secrets.values()))
    kinds = {one.headers.get("authorization", "").partition(" ")[0] for one in bitbucket_cloud.asked}
    assert {"Basic", "Bearer"} <= kinds


@pytest.mark.parametrize("how", ["refused", "led to a login"])
def test_archives_that_bitbucket_cloud_gives_to_no_access_token(
    bitbucket_cloud: BitbucketCloudDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    repository = bitbucket_cloud.repository(f"shop/n{uuid.uuid4().hex[:8]}", private=True)
    repository.write(
        {"in/deep/er/x.txt": "x", "in/empty.txt": "", ".gitattributes": "*.win eol=crlf\n", "a.win": "1\n"}
    )
    flow = write_flow(repository, folder="in/")
    whole = Bitbucket("", repository.name.partition("/")[2], "shop", bitbucket_cloud.site(), access_token_secret="T")
    page = Told(200, b"<!DOCTYPE html>Log in", {"content-type": "text/html; charset=utf-8"})
    bitbucket_cloud.pages["/login"] = page
    monkeypatch.setattr(bitbucket_cloud, "file", lambda asked: bitbucket_cloud.pages.get(asked.path, Told(404)))
    login = f"http://{bitbucket_cloud.address('files')}/login"
    with context(secrets={"T": TOKEN}):
        sound = whole.make_bundle(flow)
        no = Told(403, b"") if how == "refused" else Told(302, headers={"location": login})
        monkeypatch.setattr(bitbucket_cloud, "no_bearers", no)
        monkeypatch.setattr(bitbucket_cloud, "too_deep", True)  # nor does it list all folders at once
        assert whole.make_bundle(flow).manifest.digest == sound.manifest.digest
        repository.write({f"many/{number}.txt": "x" for number in range(250)})
        repository.commit()
        with pytest.raises(StorageError, match=r"gives no archive to this token, and its 25[0-9] files") as refused:
            whole.make_bundle(flow)
    assert "EMAIL:TOKEN" in refused.value.hint
    assert not [one for one in bitbucket_cloud.asked if one.server == "files" and "authorization" in one.headers]


def test_what_a_list_of_bitbucket_cloud_may_not_say(
    bitbucket_cloud: BitbucketCloudDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names outside of the folder, more than any bundle has, another commit's: from a server that is not right."""
    repository = bitbucket_cloud.repository(f"shop/w{uuid.uuid4().hex[:8]}")
    flow = write_flow(repository, folder="in/")
    slug = repository.name.partition("/")[2]
    storage = Bitbucket("", slug, "shop", bitbucket_cloud.site(), subdir="in")

    def told(*paths: str, **more: Any) -> Told:
        return Told.of(200, {"values": [{"path": path, "type": "commit_file", "size": 1} for path in paths], **more})

    lists = {
        "which is not below 'in'": told("in/a.py", "other/secret.py"),
        "more than 20,000 files": told(*(f"in/{number}" for number in range(40_001))),
        "no list of files": Told.of(200, ["x"]),
    }
    for said, answer in lists.items():
        monkeypatch.setattr(bitbucket_cloud, "faults", [Fault("/src/", answer, times=9)])
        with pytest.raises(StorageError, match=said):
            storage.make_bundle(flow)
    monkeypatch.setattr(bitbucket_cloud, "faults", [Fault("/commit/", Told.of(200, {"hash": "0" * 40}))])
    with pytest.raises(StorageError, match="answers for another commit"):
        storage.make_bundle(flow)
    monkeypatch.setattr(bitbucket_cloud, "faults", [])
    register(storage, flow)


def test_what_is_of_git_lfs_is_its_pointer_or_an_error(
    bitbucket_cloud: BitbucketCloudDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API gives the content where archives give the pointer, which is what every other storage takes."""
    repository = bitbucket_cloud.repository(f"shop/g{uuid.uuid4().hex[:8]}")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    repository.write({"big.bin": pointer})
    flow = write_flow(repository)
    storage = Bitbucket("", repository.name.partition("/")[2], "shop", bitbucket_cloud.site())
    assert storage.make_bundle(flow).contents["big.bin"] == pointer.encode()
    repository.commit({".gitattributes": "big.bin export-ignore\n"})
    with pytest.raises(StorageError, match=r"no pointer of Git LFS for big\.bin") as refused:
        storage.make_bundle(flow)
    assert "Git storage" in refused.value.hint
