"""Commits of a repository at a Bitbucket server of one's own (Server, Data Center), read through its API."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.compat import accept_common
from heliograph.storage.git_client import TreeEntry
from heliograph.storage.hosted import Account, Hosted, HostedPin
from heliograph.storage.pin import Pin, is_commit
from heliograph.storage.web import Web

__all__ = ["Bitbucket"]


class Bitbucket(Hosted):
    """A flow in a repository at a Bitbucket server. Nothing is uploaded: agents fetch the commit of registration.

    Bitbucket's API does not tell the names of a commit's contents, so the bundle is what its archive holds.

    Args:
        project: Key of the project, or `~user`.
        repo: Short name of the repository.
        workspace: Of Bitbucket Cloud, which is reached by `Git` storage: an error says how.
        host: Address of the server, `https://bitbucket.example.org`.
        path: The flow's file in the repository; found from the flow's own file when not given.
        ref: Branch, tag or whole name of a commit; by default the repository's default branch.
        access_token_secret: Name of the secret that is the token at registration; agents have their own, see the
            setting `storage.tokens`.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit of registration. `branch`: each run uses the newest one of the branch.
        launch: `agent` when agents' own files give the values of variables; see `Repository`.
        **prefect: What Prefect 1 had besides; see `Git`.
    """

    kind: ClassVar[str] = "bitbucket"

    def __init__(
        self,
        project: str,
        repo: str,
        workspace: str | None = None,
        host: str | None = None,
        path: str | None = None,
        ref: str | None = None,
        access_token_secret: str | None = None,
        *,
        subdir: str = "",
        pin: HostedPin = "commit",
        launch: Literal["", "agent"] = "",
        **prefect: Any,
    ) -> None:
        secret = prefect.pop("cloud_app_password_secret", None)
        user = prefect.pop("cloud_username_secret", None)
        accept_common("Bitbucket", prefect, scripts_only=True)
        if workspace or not host or secret or user:
            named = f"{workspace or 'WORKSPACE'}/{repo}"
            raise InvalidArgumentError(
                "Bitbucket Cloud has no archives in its API; Git storage reads its repositories",
                hint=f"Git(repo={named!r}, repo_host='bitbucket.org', git_token_secret_name=…); for a server of your"
                " own give host=.",
            )
        super().__init__(
            host if "://" in host else f"https://{host}",
            f"projects/{project}/repos/{repo}",
            path,
            ref,
            secret=access_token_secret,
            subdir=subdir,
            pin=pin,
            launch=launch,
        )

    @classmethod
    def at(cls, location: str, host: str = "") -> Bitbucket:
        """Returns the storage that a location names, to fetch from. Any host may."""
        del host
        site, mark, name = Pin.parse(location).url.rpartition("/projects/")
        project, slash, repo = name.partition("/repos/")
        if not mark or not slash:
            raise StorageError(f"{location.partition('#')[0]!r} is no repository of a Bitbucket server")
        return cls.reading(location, cls(project, repo, host=site))

    def _connect(self, token: str) -> Web:
        return Web(
            f"{self._site}/rest/api/1.0",
            urllib.parse.urlsplit(self._site).netloc,
            headers={"Accept": "application/json"},
            credential={"Authorization": f"Bearer {token}"} if token else None,
            secret=token,
        )

    def _account(self) -> Account:
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
        found = set()
        for kind in ("heads", "tags"):
            query = urllib.parse.urlencode({"until": f"refs/{kind}/{ref}", "limit": 1})
            told = self._web.value(f"{self._name}/commits?{query}", also=(404,))
            if told is not None and told["values"]:
                found.add(str(told["values"][0]["id"]))
        if len(found) == 2:
            raise StorageError(f"{self.url} has a branch and a tag with the name {ref!r}", hint="Give the commit.")
        commit = next(iter(found), "")
        if commit and not is_commit(commit):
            raise StorageError(f"{self._web.host} answers with no name of a commit")
        return commit

    def _entries(self, pin: Pin) -> Sequence[TreeEntry] | None:
        if self._web.value(f"{self._name}/commits/{pin.commit}", also=(404,)) is None:
            self._account()  # says so when it is the repository that is not there
            raise self._gone(pin)
        return None

    def _archive(self, pin: Pin) -> tuple[str, bool]:
        query = {"at": pin.commit, "format": "tar.gz", **({"path": pin.subdir} if pin.subdir else {})}
        return f"{self._name}/archive?{urllib.parse.urlencode(query)}", False

    def _blob(self, oid: str) -> bytes:
        raise StorageError(f"{self._web.host} has no way to ask for {oid}")
