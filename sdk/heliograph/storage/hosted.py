"""Repositories read through a server's API, without the program `git`: what GitHub, GitLab and Bitbucket share.

A commit's files come as one archive. Servers make archives with rules of their own (files marked `export-ignore` are
missing, `export-subst` and line ends change others, Git LFS may be resolved), so where the server tells the names of
the commit's contents, each file is compared with its name, and what differs is fetched by it. A bundle is then what
`Git` storage makes of the same commit, whoever makes the archive and however it is set up tomorrow.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from abc import abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from heliograph.config import config
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.collect import BundleReport
from heliograph.storage.credentials import bound_secret, secret_text
from heliograph.storage.git_client import TreeEntry, parse_url
from heliograph.storage.http_client import may_be_plain
from heliograph.storage.pin import Pin, is_commit
from heliograph.storage.repository import CommitFiles, Repository, check_size, sift
from heliograph.storage.tarball import DamagedError, Member, read_archive
from heliograph.storage.web import Web

__all__ = ["MAX_SINGLE", "Account", "Hosted", "HostedPin", "check_ref", "check_site", "git_name"]

MAX_SINGLE = 200
_TRIES = 3
_BAD_REF = re.compile(r"[\s\x00-\x1f\x7f~^:?*\[\\]|\.\.|//|^[-/]|/$|\.lock$")
_SUBMODULE = re.compile(r"^\s*path\s*=\s*(.+)$", re.MULTILINE)
_PART = re.compile(r"~?[\w.-]+")

HostedPin = Literal["commit", "branch"]


@dataclass(frozen=True, slots=True)
class Account:
    """A repository as its server knows it now.

    Attributes:
        name: Its full name.
        branch: The default branch; empty when there is no commit.
        archived: True when nothing new can be pushed.
    """

    name: str
    branch: str
    archived: bool = False


class Hosted(Repository):
    """A commit of a repository at a server with an API.

    Args:
        site: Address of the server's pages, which repositories are below.
        name: Full name of the repository there.
        path: The flow's file; see `Repository`.
        ref: Branch, tag or whole name of a commit.
        secret: Name of the secret with the token at registration.
        subdir: Folder of the repository that goes into the bundle.
        pin: Whether the commit of registration is meant or the newest one.
        launch: Who knows the values of launch settings.
    """

    def __init__(
        self,
        site: str,
        name: str,
        path: str | None,
        ref: str | None,
        *,
        secret: str | None,
        subdir: str,
        pin: HostedPin,
        launch: Literal["", "agent"],
    ) -> None:
        super().__init__(path, ref=ref, subdir=subdir, pin=pin, launch=launch)
        check_ref(self.ref)
        self._site = check_site(site)
        self._name = name.strip("/")
        if not all(_PART.fullmatch(part) and part.strip(".") for part in self._name.split("/")):
            raise InvalidArgumentError(f"{self._name!r} is no name of a repository")
        self._secret = secret or ""
        self._reading = False
        self._news: list[str] = []
        self._made: Web | None = None

    @classmethod
    def reading(cls, location: str, made: Self) -> Self:
        """Returns a storage made for a location, to fetch from."""
        made._pinned = Pin.parse(location)
        made._reading = True
        if made.url != made._pinned.url:
            raise StorageError(
                f"{made._pinned.url!r} is no address of a repository", hint="Nothing registers such a location."
            )
        return made

    # --- by subclasses -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _connect(self, token: str) -> Web:
        """Returns the API, asked with this token unless it is empty."""

    @abstractmethod
    def _account(self) -> Account:
        """Asks for the repository."""

    @abstractmethod
    def _commit_of(self, ref: str) -> str:
        """Returns the commit of a branch or a tag; empty when there is no such name."""

    @abstractmethod
    def _entries(self, pin: Pin) -> Sequence[TreeEntry] | None:
        """Returns what is below the pin's folder in its commit, with paths below that folder; None if nobody tells.

        Raises:
            StorageError: If there is no such commit any more, or no such folder.
        """

    @abstractmethod
    def _archive(self, pin: Pin) -> tuple[str, bool]:
        """Returns where the archive of a commit is, and whether all in it is in one folder."""

    @abstractmethod
    def _blob(self, oid: str) -> bytes:
        """Returns a file by the name of its content."""

    # --- what is the same everywhere ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Address of the repository's page."""
        return f"{self._site}/{self._name}"

    @property
    def _web(self) -> Web:
        if self._made is None:
            self._made = self._connect(self._token())
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    @property
    def _archives(self) -> Web:
        """Who has the archives."""
        return self._web

    def _login(self) -> str:
        """Returns the secret for this repository as it is; empty when there is none."""
        parts = urllib.parse.urlsplit(self.url)
        name = self._secret or bound_secret(parts.netloc, parts.path)
        return secret_text(name).strip() if name else ""

    def _token(self) -> str:
        # What a login for git looks like, `user:token`, serves here too.
        return self._login().rpartition(":")[2]

    def _is_of(self, entry: TreeEntry, data: bytes) -> bool:
        """True when these are the bytes of an entry."""
        return git_name(data, entry.oid) == entry.oid

    def _single(self, pin: Pin, entry: TreeEntry) -> bytes:
        """Returns one file, asked for by itself."""
        del pin
        return self._blob(entry.oid)

    def probe(self) -> str:
        """Returns what is found at the server: the default branch and its commit."""
        self._made = None
        account = self._account()
        commit = self._commit_of(account.branch) if account.branch else ""
        return f"its branch {account.branch} is at {commit[:12]}" if commit else "it has no commit yet"

    def _resolve(self, ref: str) -> tuple[str, str]:
        if is_commit(ref):
            return ref, ""
        account = self._account()
        self._known_as(account)
        wanted, ref = ref, ref or account.branch
        commit = self._commit_of(ref) if ref else ""
        if not commit and not wanted:
            raise StorageError(f"{self.url} has no commit yet", hint="Push it first.")
        if not commit:
            raise StorageError(f"{self.url} has no branch or tag {ref!r}", hint="Push it first, or correct the name.")
        return commit, ref

    def _known_as(self, account: Account) -> None:
        """Notes what became of the repository. Whoever follows a branch is not led to another repository."""
        self._news = []
        old = self.url
        if account.name.lower() != self._name.lower():
            if self._reading:
                raise StorageError(
                    f"{old} is {account.name} now, and its branch may be somebody else's",
                    hint="Register the flow again from where it is now.",
                )
            self._news.append(f"{old} is {account.name} now, which is what is registered; correct the storage's name")
        self._name = account.name
        if account.archived:
            self._news.append(f"{self.url} is archived: nothing new can be pushed to it")

    def _report(self, pin: Pin, files: CommitFiles) -> BundleReport:
        report = super()._report(pin, files)
        report.warnings[:0] = self._news
        return report

    def _files(self, pin: Pin, cache: Path) -> CommitFiles:
        del cache  # nothing but the bundle itself is kept
        self._made = None  # every fetch has its own limit of time
        entries = self._entries(pin)
        if entries is None:
            return _from_archive(self._download(pin, None), pin)
        taken, left = sift([(entry.mode, entry.path) for entry in entries])
        by_path = {entry.path: entry for entry in entries}
        check_size(sum(by_path[path].size for path in taken))
        contents = self._contents(pin, {path: by_path[path] for path in taken}, by_path.keys())
        check_size(sum(len(data) for data in contents.values()))
        return CommitFiles(
            contents=contents,
            executable=frozenset(path for path in taken if by_path[path].mode == "100755"),
            left=tuple(left),
        )

    def _contents(self, pin: Pin, wanted: Mapping[str, TreeEntry], known: Container[str]) -> dict[str, bytes]:
        """Returns the bytes of files: from the archive where they are right, else one by one."""
        got = self._download(pin, wanted)
        strange = sorted(path for path in got if path not in known)
        if strange:
            raise StorageError(
                f"what {self._web.host} gave is not commit {pin.commit[:12]}: it has no {strange[0][:100]!r}",
                hint="Somebody on the way changed it, or the server is broken.",
            )
        found: dict[str, bytes] = {}
        for path, entry in wanted.items():
            member = got.get(path)
            # Line ends are what rules for archives change most; undoing that saves a request for each file.
            for data in (member.data, member.data.replace(b"\r\n", b"\n")) if member is not None else ():
                if self._is_of(entry, data):
                    found[path] = data
                    break
        single = [path for path in wanted if path not in found]
        if len(single) > MAX_SINGLE:
            raise StorageError(
                f"the archive of commit {pin.commit[:12]} lacks or changes {len(single)} files, such as {single[0]}",
                hint="Its .gitattributes say so (export-ignore, export-subst, filters). Use Git storage.",
            )
        for path in single:
            data = self._single(pin, wanted[path])
            if not self._is_of(wanted[path], data):
                raise StorageError(f"{self._web.host} gives another {path} than commit {pin.commit[:12]} has")
            found[path] = data
        return {path: found[path] for path in wanted}

    def _download(self, pin: Pin, wanted: Mapping[str, TreeEntry] | None) -> dict[str, Member]:
        """Returns the files of the archive with paths below the pin's folder; bytes only of those that are wanted."""
        place, top = self._archive(pin)
        begins = f"{pin.subdir}/" if pin.subdir else ""
        name = f"the archive of commit {pin.commit[:12]} of {pin.url}"

        def below(path: str) -> str | None:
            return path.removeprefix(begins) if path.startswith(begins) else None

        def is_wanted(path: str) -> bool:
            inner = below(path)
            return inner is not None and (wanted is None or inner in wanted)

        for attempt in range(1, _TRIES + 1):
            with self._archives.download(place, config().storage.archive_limit_bytes) as stream:
                try:
                    members = read_archive(stream, is_wanted, top=top, name=name)
                    break
                except DamagedError:
                    if attempt == _TRIES:
                        raise
        return {inner: member for path, member in members.items() if (inner := below(path)) is not None}


def _from_archive(members: Mapping[str, Member], pin: Pin) -> CommitFiles:
    """Takes an archive at its word, where nothing tells what the commit holds."""
    if not members:
        raise StorageError(f"commit {pin.commit[:12]} of {pin.url} has no folder {pin.subdir!r}")
    taken, left = sift([(member.mode, path) for path, member in members.items()])
    listed = members[".gitmodules"].data.decode("utf-8", "replace") if ".gitmodules" in members else ""
    left += [(path.strip(), "a submodule") for path in _SUBMODULE.findall(listed)]
    check_size(sum(len(members[path].data) for path in taken))
    return CommitFiles(
        contents={path: members[path].data for path in sorted(taken)},
        executable=frozenset(path for path in taken if members[path].mode == "100755"),
        left=tuple(left),
    )


def git_name(data: bytes, like: str) -> str:
    """Returns the name that git gives to a file's content, in the form that another name has."""
    form = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return form(f"blob {len(data)}\0".encode() + data).hexdigest()


def check_ref(ref: str) -> None:
    """Refuses what is no name of a branch, a tag or a commit.

    Raises:
        InvalidArgumentError: It is none.
    """
    if ref and _BAD_REF.search(ref):
        raise InvalidArgumentError(f"{ref!r} is no name of a branch, a tag or a commit")


def check_site(address: str) -> str:
    """Returns an address of a server without its last slash.

    Raises:
        InvalidArgumentError: It is none, has a login in it, or everybody on the way could read what is sent there.
    """
    remote = parse_url(address.rstrip("/"))
    path = urllib.parse.urlsplit(remote.url).path
    if any(part in (".", "..") or "%" in part for part in path.split("/")):
        raise InvalidArgumentError(f"{address!r} is no address of a server")
    if remote.protocol != "https" and not (remote.protocol == "http" and may_be_plain(remote.url)):
        raise InvalidArgumentError(f"{address!r} is no address with https", hint="A token is sent by https only.")
    return remote.url
