"""Commits of a Git repository, over https, ssh or from a folder."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.bundle import Bundle, find_source
from heliograph.storage.compat import accept_common
from heliograph.storage.credentials import bound_secret, secret_text
from heliograph.storage.git_client import Mirror, Remote, parse_url, resolve, work_tree
from heliograph.storage.git_login import Login, SshKey
from heliograph.storage.pin import Pin
from heliograph.storage.repository import CommitFiles, Repository, check_size, sift

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

__all__ = ["Git"]


class Git(Repository):
    """A flow in a Git repository. Nothing is uploaded: agents fetch the commit that was meant at registration.

    Args:
        flow_path: The flow's file in the repository; found from the flow's own file when not given.
        repo: `owner/name` at `repo_host`, or a whole address: `https://…`, `ssh://…`, `git@host:owner/name.git`, or a
            folder, which only agents of this host can read. By default the remote `origin` of the flow's clone.
        repo_host: Server of `owner/name`.
        git_token_secret_name: Name of the secret that is the login at registration: a token, for ssh a private key;
            agents have their own, see the setting `storage.tokens`.
        git_token_username: User name that goes with it; servers that want only a token ignore it.
        branch_name: Branch. One of these three at most; by default the repository's default branch.
        tag: Tag.
        commit: Whole name of a commit.
        use_ssh: True to reach `owner/name` by ssh.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit of registration. `branch`: each run uses the newest one of the branch.
        launch: `agent` when agents' own files give the values of variables; see `Repository`.
        host: For a folder: name of the host that has it, this one by default; empty where it is mounted everywhere.
        **prefect: What Prefect 1 had besides. Accepted: `flow_name`, `clone_depth`, `labels`, `add_default_labels`,
            `stored_as_script`, `secrets`; an error says the way where the meaning is another.
    """

    kind: ClassVar[str] = "git"

    def __init__(
        self,
        flow_path: str | None = None,
        repo: str | None = None,
        repo_host: str = "github.com",
        *,
        git_token_secret_name: str | None = None,
        git_token_username: str | None = None,
        branch_name: str | None = None,
        tag: str | None = None,
        commit: str | None = None,
        use_ssh: bool = False,
        subdir: str = "",
        pin: Literal["commit", "branch"] = "commit",
        launch: Literal["", "agent"] = "",
        host: str | None = None,
        **prefect: Any,
    ) -> None:
        if sum(value is not None for value in (branch_name, tag, commit)) > 1:
            raise InvalidArgumentError("only one of branch_name, tag and commit can be given")
        accept_common("Git", prefect, scripts_only=True)
        super().__init__(flow_path, ref=branch_name or tag or commit, subdir=subdir, pin=pin, launch=launch)
        if repo is not None and "/" in repo and not any(mark in repo for mark in ("://", ":", "\\")) and repo[0] != "/":
            repo = f"git@{repo_host}:{repo}.git" if use_ssh else f"https://{repo_host}/{repo}.git"
        self._remote = parse_url(repo) if repo is not None else None
        self._secret = git_token_secret_name or ""
        self._user = git_token_username or ""
        self._host = host

    @classmethod
    def at(cls, location: str, host: str = "") -> Git:
        """Returns the storage that a location names, to fetch from."""
        pin = Pin.parse(location)
        made = cls(host=host)
        made._remote = parse_url(pin.url, pin.user)
        made._pinned = pin
        return made

    @property
    def remote(self) -> Remote:
        """The repository."""
        if self._remote is None:
            raise StorageError("the repository is not known before registration", hint="Give Git(repo=…).")
        return self._remote

    @property
    def url(self) -> str:
        """Address of the repository."""
        return self._remote.url if self._remote is not None else "origin"

    @property
    def host(self) -> str:
        """The host that has the folder; empty for a server."""
        if self._remote is None or self._remote.protocol != "file":
            return ""
        return socket.gethostname() if self._host is None else self._host

    @property
    def _user_name(self) -> str:
        return self.remote.user

    def _login(self) -> Login | SshKey | None:
        remote = self.remote
        if remote.protocol == "file":
            return None
        if remote.protocol == "ssh":
            name = self._secret or bound_secret(remote.host, remote.path, scheme="ssh")
            return SshKey(name, secret_text(name)) if name else None
        name = self._secret or bound_secret(remote.host, remote.path)
        if not name:
            return None
        text = secret_text(name)
        if self._user:
            return Login(self._user, text)
        user, mark, password = text.partition(":")
        # Servers that take a token take any name with it; this is the one that GitHub documents.
        return Login(user, password) if mark else Login("x-access-token", text)

    def _resolve(self, ref: str) -> tuple[str, str]:
        return resolve(self.remote, ref, self._login())

    def _files(self, pin: Pin, cache: Path) -> CommitFiles:
        name = hashlib.sha256(pin.url.encode()).hexdigest()[:32]
        mirror = Mirror(cache.absolute() / "git" / f"{name}.git", self.remote, self._login())
        try:
            mirror.ensure(pin.commit, pin.ref)
        except OSError as error:
            raise StorageError(f"the repository cannot be kept in {cache}: {error}") from error
        entries = mirror.tree(pin.commit, pin.subdir)
        taken, left = sift([(entry.mode, entry.path) for entry in entries])
        by_path = {entry.path: entry for entry in entries}
        check_size(sum(by_path[path].size for path in taken))
        blobs = mirror.blobs([by_path[path].oid for path in taken])
        return CommitFiles(
            contents=dict(zip(taken, blobs, strict=True)),
            executable=frozenset(path for path in taken if by_path[path].mode == "100755"),
            left=tuple(left),
        )

    def make_bundle(
        self, flow: Flow, *, project_root: str | os.PathLike[str] | None = None, pickle: bool | None = None
    ) -> Bundle:
        """Finds repository, commit and files; see `Repository.make_bundle`."""
        if self._remote is None:
            self._find_origin(flow)
        return super().make_bundle(flow, project_root=project_root, pickle=pickle)

    def _find_origin(self, flow: Flow) -> None:
        """Takes the repository, and unless one is given the branch, from the clone that the flow's file is in."""
        source = find_source(flow, None)
        folder = source.file.parent if source is not None else Path.cwd()
        origin = work_tree("remote", "get-url", "origin", folder=folder)
        if not origin:
            raise StorageError(f"{folder} is in no clone with a remote 'origin'", hint="Give Git(repo=…).")
        self._remote = parse_url(origin.strip())
        if not self.ref:
            branch = work_tree("symbolic-ref", "--short", "-q", "HEAD", folder=folder)
            self.ref = branch.strip() if branch else ""
