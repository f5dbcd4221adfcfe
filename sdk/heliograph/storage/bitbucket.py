"""Commits of a repository at Bitbucket Cloud, or at a Bitbucket server of one's own, read through its API."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage import bitbucket_cloud as cloud
from heliograph.storage.bitbucket_cloud import Cloud
from heliograph.storage.compat import accept_common
from heliograph.storage.credentials import secret_text
from heliograph.storage.git_client import TreeEntry
from heliograph.storage.hosted import MAX_SINGLE, Account, Hosted, HostedPin
from heliograph.storage.http_client import HTTPError
from heliograph.storage.pin import Pin, is_commit
from heliograph.storage.tarball import Member
from heliograph.storage.web import Web

__all__ = ["Bitbucket"]


class Bitbucket(Hosted):
    """A flow in a repository at Bitbucket. Nothing is uploaded: agents fetch the commit that was meant at registration.

    With `workspace` it is at Bitbucket Cloud, with `host` alone at a server of one's own (Server, Data Center).

    Args:
        project: Key of the project, or `~user`. At Bitbucket Cloud workspace and repository are enough.
        repo: Short name of the repository.
        workspace: Name of the workspace at Bitbucket Cloud.
        host: Address of a server of one's own, `https://bitbucket.example.org`; with `workspace` the address of a way
            to Bitbucket Cloud that serves its pages and, below `/2.0`, its API.
        path: The flow's file in the repository; found from the flow's own file when not given.
        ref: Branch, tag or whole name of a commit; by default the repository's default branch.
        access_token_secret: Name of the secret that is the access token at registration, or at Bitbucket Cloud
            `EMAIL:API_TOKEN`; agents have their own, see the setting `storage.tokens`.
        cloud_username_secret: Name of the secret that is the e-mail address or user name, for Bitbucket Cloud.
        cloud_app_password_secret: Name of the secret that is the API token or app password that goes with it.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit of registration. `branch`: each run uses the newest one of the branch.
        launch: `agent` when agents' own files give the values of variables; see `Repository`.
        **prefect: What Prefect 1 had besides; see `Git`.
    """

    kind: ClassVar[str] = "bitbucket"

    def __init__(
        self,
        project: str = "",
        repo: str = "",
        workspace: str | None = None,
        host: str | None = None,
        path: str | None = None,
        ref: str | None = None,
        access_token_secret: str | None = None,
        cloud_username_secret: str | None = None,
        cloud_app_password_secret: str | None = None,
        *,
        subdir: str = "",
        pin: HostedPin = "commit",
        launch: Literal["", "agent"] = "",
        **prefect: Any,
    ) -> None:
        accept_common("Bitbucket", prefect, scripts_only=True)
        if not repo:
            raise InvalidArgumentError("the repository is not given", hint="Give repo='name'.")
        login = (cloud_username_secret, cloud_app_password_secret)
        if any(login) and not (all(login) and workspace and not access_token_secret):
            raise InvalidArgumentError(
                "cloud_username_secret and cloud_app_password_secret belong together, to Bitbucket Cloud, and to no"
                " other secret",
                hint="Give both with workspace=; or access_token_secret= alone.",
            )
        if not workspace and not (host and project):
            raise InvalidArgumentError(
                "it is not said where the repository is",
                hint="Give workspace= for Bitbucket Cloud, or host= and project= for a server of your own.",
            )
        self._is_cloud = bool(workspace)
        site = host or cloud.SITE
        super().__init__(
            site if "://" in site else f"https://{site}",
            f"{workspace}/{repo}" if workspace else f"projects/{project}/repos/{repo}",
            path,
            ref,
            secret=access_token_secret,
            subdir=subdir,
            pin=pin,
            launch=launch,
        )
        self._login_secrets = login if all(login) else None
        if self._is_cloud and (self._name.count("/") != 1 or urllib.parse.urlsplit(self._site).path):
            raise InvalidArgumentError(
                f"{self.url} is no repository of Bitbucket Cloud", hint="Give workspace='name', repo='name'."
            )

    @classmethod
    def at(cls, location: str, host: str = "") -> Bitbucket:
        """Returns the storage that a location names, to fetch from. Any host may."""
        del host
        url = Pin.parse(location).url
        site, mark, name = url.rpartition("/projects/")
        project, slash, repo = name.partition("/repos/")
        if mark and slash:
            return cls.reading(location, cls(project, repo, host=site))
        parts = urllib.parse.urlsplit(url)
        workspace, slash, repo = parts.path.strip("/").partition("/")
        if not slash or "/" in repo:
            raise StorageError(f"{url!r} is no repository of Bitbucket")
        return cls.reading(location, cls("", repo, workspace, f"{parts.scheme}://{parts.netloc}"))

    @property
    def _cloud(self) -> Cloud | None:
        return Cloud(self._site, self._name) if self._is_cloud else None

    def _token(self) -> str:
        if self._login_secrets is not None:
            user, password = (secret_text(str(name)).strip() for name in self._login_secrets)
            return f"{user}:{password}"
        return self._login() if self._is_cloud else super()._token()

    def _connect(self, token: str) -> Web:
        if self._cloud is not None:
            return self._cloud.connect(token)
        return Web(
            f"{self._site}/rest/api/1.0",
            urllib.parse.urlsplit(self._site).netloc,
            headers={"Accept": "application/json"},
            credential={"Authorization": f"Bearer {token}"} if token else None,
            secret=token,
        )

    def _account(self) -> Account:
        if self._cloud is not None:
            return self._cloud.account(self._web)
        told = self._web.value(self._name, also=(404,))
        if told is None:
            raise StorageError(
                f"{self.url} is not there, or the token may not see it",
                hint=f"Correct the names; or give the token the right to read it. Without one: {self._web.binding()}",
            )
        branch = self._web.value(f"{self._name}/default-branch", also=(204, 404))
        if branch is None:  # servers before 7.5
            branch = self._web.value(f"{self._name}/branches/default", also=(204, 404)) or {}
        return Account(
            f"projects/{told['project']['key']}/repos/{told['slug']}",
            str(branch.get("id") or "").removeprefix("refs/heads/"),
            bool(told.get("archived")),
        )

    def _commit_of(self, ref: str) -> str:
        found = self._cloud.commits(self._web, ref) if self._cloud is not None else self._commits(ref)
        if len(found) == 2:
            raise StorageError(f"{self.url} has a branch and a tag with the name {ref!r}", hint="Give the commit.")
        commit = next(iter(found), "")
        if commit and not is_commit(commit):
            raise StorageError(f"{self._web.host} answers with no name of a commit")
        return commit

    def _commits(self, ref: str) -> set[str]:
        found = set()
        for kind in ("heads", "tags"):
            query = urllib.parse.urlencode({"until": f"refs/{kind}/{ref}", "limit": 1})
            told = self._web.value(f"{self._name}/commits?{query}", also=(404,))
            if told is not None and told["values"]:
                found.add(str(told["values"][0]["id"]))
        return found

    def _entries(self, pin: Pin) -> Sequence[TreeEntry] | None:
        there = (
            self._cloud.has(self._web, pin.commit)
            if self._cloud is not None
            else self._web.value(f"{self._name}/commits/{pin.commit}", also=(404,)) is not None
        )
        if not there:
            self._account()  # says so when it is the repository that is not there
            raise self._gone(pin)
        return self._cloud.entries(self._web, pin) if self._cloud is not None else None

    @property
    def _archives(self) -> Web:
        return self._cloud.archives(self._token()) if self._cloud is not None else self._web

    def _archive(self, pin: Pin) -> tuple[str, bool]:
        if self._cloud is not None:
            return self._cloud.archive(pin), True
        query = {"at": pin.commit, "format": "tar.gz", **({"path": pin.subdir} if pin.subdir else {})}
        return f"{self._name}/archive?{urllib.parse.urlencode(query)}", False

    def _download(self, pin: Pin, wanted: Mapping[str, TreeEntry] | None) -> dict[str, Member]:
        try:
            return super()._download(pin, wanted)
        except HTTPError as error:
            # Not every kind of token that the API takes is taken where archives are: then it is one file after another.
            if wanted is None or error.status not in (401, 403, 404):
                raise
            if len(wanted) > MAX_SINGLE:
                raise StorageError(
                    f"{self.url} gives no archive to this token, and its {len(wanted)} files are too many to be asked"
                    " for one by one",
                    hint="Use an API token with its e-mail address, EMAIL:TOKEN; or subdir=…; or Git storage.",
                ) from error
            return {}

    def _is_of(self, entry: TreeEntry, data: bytes) -> bool:
        return cloud.is_of(entry, data) if self._is_cloud else super()._is_of(entry, data)

    def _single(self, pin: Pin, entry: TreeEntry) -> bytes:
        return self._cloud.single(self._web, pin, entry) if self._cloud is not None else super()._single(pin, entry)

    def _blob(self, oid: str) -> bytes:
        raise StorageError(f"{self._web.host} has no way to ask for {oid}")
