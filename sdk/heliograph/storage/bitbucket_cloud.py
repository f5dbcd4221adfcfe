"""What Bitbucket Cloud's API 2.0 says of a repository, and where its archives are.

The API lists a commit's files with their sizes and kinds, but not with git's names of their contents; archives are not
part of the API, but of the pages, and take the same logins. So an archive is held to the list by paths and sizes, what
it lacks or has changed is asked for at the API, and the digest of the registration decides, as everywhere.
"""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, BinaryIO

from heliograph.exceptions import StorageError
from heliograph.storage.git_client import TreeEntry
from heliograph.storage.hosted import Account
from heliograph.storage.http_client import Answer, HTTPError
from heliograph.storage.manifest import MAX_FILES
from heliograph.storage.pin import Pin
from heliograph.storage.web import Web, reason_of, value_of

__all__ = ["SITE", "Cloud", "is_of"]

SITE = "https://bitbucket.org"
_API = "https://api.bitbucket.org/2.0"
_BEARERS = frozenset({"", "x-token-auth"})
"""User names that git sends with an access token, which belongs to nobody."""
_DEPTH = 20
_PAGE = 100
_TOO_DEEP = 555
_LFS = "lfs"
_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Cloud:
    """A repository at Bitbucket Cloud.

    Attributes:
        site: Address of the pages.
        name: `workspace/repository`.
    """

    site: str
    name: str

    @property
    def _base(self) -> str:
        return f"repositories/{self.name}"

    @property
    def _host(self) -> str:
        return urllib.parse.urlsplit(self.site).netloc

    def connect(self, login: str) -> Web:
        """Returns the API, asked with an access token or `user:password`, unless it is empty."""
        return self._web(_CloudWeb, _API if self.site == SITE else f"{self.site}/2.0", login)

    def archives(self, login: str) -> Web:
        """Returns the server of the archives: the one of the pages, which is Bitbucket's too."""
        return self._web(_CloudPages, self.site, login)

    def _web(self, kind: type[Web], base: str, login: str) -> Web:
        user, _, password = login.rpartition(":")
        sent = f"Bearer {password}"
        if user not in _BEARERS:
            sent = f"Basic {base64.b64encode(login.encode()).decode()}"
        credential = {"Authorization": sent} if login else None
        return kind(base, self._host, headers={"Accept": "application/json"}, credential=credential, secret=password)

    def account(self, web: Web) -> Account:
        """Asks for the repository.

        Raises:
            StorageError: It is not there, or not for everybody.
        """
        told = web.value(self._base, also=(404,))
        if told is None:
            url = f"{self.site}/{self.name}"
            if not web.has_login:
                raise StorageError(
                    f"{url} is not there, or is private", hint=f"Correct the name; for a private one {web.binding()}"
                )
            raise StorageError(
                f"{url} is not there, or the token may not see it",
                hint="Correct the name; or give the token the right to read the repository.",
            )
        return Account(str(told["full_name"]), str((told.get("mainbranch") or {}).get("name") or ""))

    def commits(self, web: Web, ref: str) -> set[str]:
        """Returns what a branch and a tag of that name mean."""
        found = set()
        for kind in ("branches", "tags"):
            told = web.value(f"{self._base}/refs/{kind}/{urllib.parse.quote(ref)}", also=(404,))
            if told is not None and told.get("name") == ref:
                found.add(str(told["target"]["hash"]))
        return found

    def has(self, web: Web, commit: str) -> bool:
        """True when the repository has a commit."""
        told = web.value(f"{self._base}/commit/{commit}", also=(404,))
        if told is not None and told.get("hash") != commit:
            raise StorageError(f"{web.host} answers for another commit than {commit[:12]}")
        return told is not None

    def entries(self, web: Web, pin: Pin) -> list[TreeEntry]:
        """Returns what is below the pin's folder in its commit, with paths below that folder.

        Raises:
            StorageError: There is no such folder, or more than a bundle may have.
        """
        begins = f"{pin.subdir}/" if pin.subdir else ""
        found: dict[str, dict[str, Any]] = {}
        asked: set[str] = set()
        pending, depth = [pin.subdir], _DEPTH
        while pending:
            folder = pending.pop()
            asked.add(folder)
            listed = self._listed(web, pin.commit, folder, depth)
            if listed is None:  # the server gave up on so many folders at once
                depth, pending = 1, [*pending, folder]
                continue
            for entry in listed:
                path = str(entry["path"])
                if not path.startswith(begins):
                    raise StorageError(f"{web.host} lists {path[:100]!r}, which is not below {pin.subdir!r}")
                found[path] = entry
            if len(found) > MAX_FILES * 2:
                raise StorageError(
                    f"commit {pin.commit[:12]} of {pin.url} has more than {MAX_FILES:,} files",
                    hint="Give a folder of it: subdir=….",
                )
            # No folder of a commit is empty: one with nothing below it was not looked into yet.
            full = {path.rpartition("/")[0] for path in found}
            folders = {path for path, entry in found.items() if _is_folder(entry)}
            pending = sorted({*pending, *(folders - full - asked)})
        files = [_entry(entry, path.removeprefix(begins)) for path, entry in found.items() if not _is_folder(entry)]
        if not files:
            raise StorageError(f"commit {pin.commit[:12]} of {pin.url} has no folder {pin.subdir!r}")
        return files

    def _listed(self, web: Web, commit: str, folder: str, depth: int) -> list[dict[str, Any]] | None:
        """Returns what a folder has, page by page; None when that many levels at once are too much."""
        place = self._source(commit, f"{folder}/" if folder else "")
        page = urllib.parse.urlencode({"max_depth": depth, "pagelen": _PAGE})
        entries: list[dict[str, Any]] = []
        while page:
            answer = web.get(f"{place}?{page}", also=() if entries else (404, _TOO_DEEP) if depth > 1 else (404,))
            if answer.status == _TOO_DEEP:
                return None
            told = value_of(answer) if answer.status == 200 else {"values": []}
            if not isinstance(told, dict) or not isinstance(told.get("values"), list):
                raise StorageError(f"{web.host} answers with no list of files")
            entries += told["values"]
            if len(entries) > MAX_FILES * 2:
                return entries
            # Only the query of the next page's address: it may be one that the server has inside only.
            page = urllib.parse.urlsplit(str(told.get("next") or "")).query if told["values"] else ""
        return entries

    def _source(self, commit: str, path: str) -> str:
        return f"{self._base}/src/{commit}/{urllib.parse.quote(path)}"

    def archive(self, pin: Pin) -> str:
        """Returns where the archive of a commit is, below the pages."""
        return f"{self.name}/get/{pin.commit}.tar.gz"

    def single(self, web: Web, pin: Pin, entry: TreeEntry) -> bytes:
        """Returns one file of a commit.

        Raises:
            StorageError: Git LFS has it: the API gives its content and not the pointer, which is what the commit has.
        """
        if entry.oid == _LFS:
            raise StorageError(f"{web.host} gives no pointer of Git LFS for {entry.path}", hint="Use Git storage.")
        path = f"{pin.subdir}/{entry.path}" if pin.subdir else entry.path
        return web.get(self._source(pin.commit, path), accept="*/*").body


class _CloudWeb(Web):
    """Bitbucket Cloud's own reasons for a no."""

    def hint(self, answer: Answer) -> str:
        """Returns what to do about an answer."""
        if answer.status == 403 and "scope" in reason_of(answer):
            return "The token needs the right to read repositories: read:repository:bitbucket."
        return super().hint(answer)


class _CloudPages(Web):
    """The pages: who may not see something there is led to a login."""

    def _ask(self, path: str, accept: str, also: Container[int], into: BinaryIO | None, limit: int) -> Answer:
        answer = super()._ask(path, accept, also, into, limit)
        if "html" in answer.headers.get("content-type", ""):
            error = HTTPError(f"{self.host} wants a login for {path} and takes none of the API's", hint=self.binding())
            error.status = 403
            raise error
        return answer


def is_of(entry: TreeEntry, data: bytes) -> bool:
    """True when the bytes can be those of an entry, as far as the API says what these are."""
    return data.startswith(_POINTER) if entry.oid == _LFS else len(data) == entry.size


def _is_folder(entry: dict[str, Any]) -> bool:
    return entry.get("type") == "commit_directory" and "subrepository" not in _attributes(entry)


def _attributes(entry: dict[str, Any]) -> list[str]:
    return [str(word) for word in entry.get("attributes") or ()]


def _entry(entry: dict[str, Any], path: str) -> TreeEntry:
    words = _attributes(entry)
    modes = {"subrepository": "160000", "link": "120000", "executable": "100755"}
    mode = next((mode for word, mode in modes.items() if word in words), "100644")
    if _LFS in words:  # its size is the one of the content
        return TreeEntry(mode, _LFS, 0, path)
    return TreeEntry(mode, "", int(entry.get("size") or 0), path)
