"""Commits of a project at GitLab, or at a GitLab server of one's own, read through its API."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from heliograph.exceptions import StorageError
from heliograph.storage.compat import accept_common
from heliograph.storage.git_client import TreeEntry
from heliograph.storage.hosted import Account, Hosted, HostedPin
from heliograph.storage.http_client import Answer
from heliograph.storage.manifest import MAX_FILES
from heliograph.storage.pin import Pin, is_commit
from heliograph.storage.web import Web, value_of

__all__ = ["GitLab"]

_PUBLIC = "https://gitlab.com"
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')
_PAGE = 100


class GitLab(Hosted):
    """A flow in a project at GitLab. Nothing is uploaded: agents fetch the commit that was meant at registration.

    Args:
        repo: Path of the project, `group/subgroup/name`, or its number.
        host: Address of a server of one's own, `https://gitlab.example.org`.
        path: The flow's file in the repository; found from the flow's own file when not given.
        ref: Branch, tag or whole name of a commit; by default the project's default branch.
        access_token_secret: Name of the secret that is the token at registration; agents have their own, see the
            setting `storage.tokens`.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit of registration. `branch`: each run uses the newest one of the branch.
        launch: `agent` when agents' own files give the values of variables; see `Repository`.
        **prefect: What Prefect 1 had besides; see `Git`.
    """

    kind: ClassVar[str] = "gitlab"

    def __init__(
        self,
        repo: str,
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
        accept_common("GitLab", prefect, scripts_only=True)
        site = host or _PUBLIC
        super().__init__(
            site if "://" in site else f"https://{site}",
            str(repo),
            path,
            ref,
            secret=access_token_secret,
            subdir=subdir,
            pin=pin,
            launch=launch,
        )

    @classmethod
    def at(cls, location: str, host: str = "") -> GitLab:
        """Returns the storage that a location names, to fetch from. Any host may."""
        del host
        pin = Pin.parse(location)
        parts = urllib.parse.urlsplit(pin.url)
        root = f"/{pin.root}" if pin.root else ""
        if not parts.path.startswith(f"{root}/"):
            raise StorageError(f"{pin.url!r} is no project below {pin.root!r}")
        return cls.reading(location, cls(parts.path.removeprefix(f"{root}/"), f"{parts.scheme}://{parts.netloc}{root}"))

    def _connect(self, token: str) -> Web:
        # Every kind of token is taken in this header: of a person, a group, a project or OAuth.
        return _GitLabWeb(
            f"{self._site}/api/v4",
            urllib.parse.urlsplit(self._site).netloc,
            headers={"Accept": "application/json"},
            credential={"Authorization": f"Bearer {token}"} if token else None,
            secret=token,
        )

    @property
    def _root(self) -> str:
        return urllib.parse.urlsplit(self._site).path.strip("/")

    @property
    def _base(self) -> str:
        return f"projects/{urllib.parse.quote(self._name, safe='')}"

    def _account(self) -> Account:
        told = self._web.value(self._base, also=(404,))
        if told is None:
            raise self._not_there()
        name = str(told["path_with_namespace"])
        if self._name.isdecimal():
            self._name = name  # a number is never somebody else's
        return Account(name, str(told.get("default_branch") or ""), bool(told.get("archived")))

    def _not_there(self) -> StorageError:
        web = self._web
        if web.has_login:
            way = "Correct the name; or give the token's owner the role Reporter, and the token the scope read_api."
            return StorageError(f"{self.url} is not there, or the token may not see it", hint=way)
        return StorageError(
            f"{self.url} is not there, or is private", hint=f"Correct the name; for a private one {web.binding()}"
        )

    def _commit_of(self, ref: str) -> str:
        found = set()
        for kind in ("branches", "tags"):
            told = self._web.value(f"{self._base}/repository/{kind}/{urllib.parse.quote(ref, safe='')}", also=(404,))
            if told is not None:
                found.add(str(told["commit"]["id"]))
        if len(found) == 2:
            raise StorageError(f"{self.url} has a branch and a tag with the name {ref!r}", hint="Give the commit.")
        commit = next(iter(found), "")
        if commit and not is_commit(commit):
            raise StorageError(f"{self._web.host} answers with no name of a commit")
        return commit

    def _entries(self, pin: Pin) -> Sequence[TreeEntry]:
        if self._web.value(f"{self._base}/repository/commits/{pin.commit}?stats=false", also=(404,)) is None:
            self._account()  # says so when it is the project that is not there
            raise self._gone(pin)
        query = {"ref": pin.commit, "recursive": "true", "pagination": "keyset", "per_page": str(_PAGE)}
        if pin.subdir:
            query["path"] = pin.subdir
        place, page = f"{self._base}/repository/tree", urllib.parse.urlencode(query)
        begins = f"{pin.subdir}/" if pin.subdir else ""
        entries: list[TreeEntry] = []
        while page:
            answer = self._web.get(f"{place}?{page}", also=() if entries else (404,))
            told = value_of(answer) if answer.status == 200 else []
            if not isinstance(told, list):
                raise StorageError(f"{self._web.host} answers with no list of files")
            entries += [
                TreeEntry(str(entry["mode"]), str(entry["id"]), 0, str(entry["path"]).removeprefix(begins))
                for entry in told
                if entry["type"] != "tree"
            ]
            if len(entries) > MAX_FILES:
                raise StorageError(
                    f"commit {pin.commit[:12]} of {pin.url} has more than {MAX_FILES:,} files",
                    hint="Give a folder of it: subdir=….",
                )
            page = _next_page(answer) if told else ""
        if not entries:
            raise StorageError(f"commit {pin.commit[:12]} of {pin.url} has no folder {pin.subdir!r}")
        return entries

    def _archive(self, pin: Pin) -> tuple[str, bool]:
        query = {"sha": pin.commit, "include_lfs_blobs": "false", **({"path": pin.subdir} if pin.subdir else {})}
        return f"{self._base}/repository/archive.tar.gz?{urllib.parse.urlencode(query)}", True

    def _blob(self, oid: str) -> bytes:
        return self._web.get(f"{self._base}/repository/blobs/{oid}/raw", accept="*/*").body


class _GitLabWeb(Web):
    """GitLab's own reasons for a no."""

    def hint(self, answer: Answer) -> str:
        """Returns what to do about an answer."""
        if answer.status == 403 and "insufficient_scope" in answer.body.decode("utf-8", "replace"):
            return "The token needs the scope read_api: read_repository alone is for git, not for the API."
        return super().hint(answer)


def _next_page(answer: Answer) -> str:
    """Returns the query of the next page. Its address may be one that the server has inside only."""
    found = _NEXT.search(answer.headers.get("link", ""))
    return urllib.parse.urlsplit(found[1]).query if found else ""
