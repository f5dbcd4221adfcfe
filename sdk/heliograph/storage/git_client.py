"""What storage needs of the `git` program: which commit a name means, and the bytes of a commit.

Every command has a limit of time, asks nobody, and may use no other protocol than the settings allow. A login goes to
git through its environment: it is in no address, no argument and no file. Keys for ssh are `git_login`'s.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from heliograph.config import config
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.cache import locked
from heliograph.storage.git_login import Login, SshKey, ssh_command
from heliograph.storage.git_refusals import NO_CONNECTION, hint, reason
from heliograph.storage.pin import is_commit

__all__ = ["GitError", "Mirror", "Remote", "TreeEntry", "parse_url", "resolve", "work_tree"]

_KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
_SCP = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[A-Za-z0-9][\w.-]*):(?P<path>[^:].*)")
_EVERYTHING = "2147483647"  # git's own number for a depth without end


class GitError(StorageError):
    """Git said no."""


class NoConnectionError(GitError):
    """The server, or ssh on the way to it, let nobody in: what is there was not asked."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository.

    Attributes:
        url: Its address, without credentials.
        protocol: `https`, `http`, `ssh` or `file`.
        host: Its server, with the port that the address has; empty for a folder.
        user: User name of `ssh://` addresses, which the address must not have.
    """

    url: str
    protocol: str
    host: str = ""
    user: str = ""

    @property
    def address(self) -> str:
        """What git is told."""
        if self.user and self.url.startswith("ssh://"):
            return f"ssh://{self.user}@{self.url.removeprefix('ssh://')}"
        return self.url

    @property
    def path(self) -> str:
        """Its name on the server."""
        if "://" in self.url:
            return self.url.partition("://")[2].partition("/")[2]
        return self.url.partition(":")[2] if self.protocol == "ssh" else self.url


def parse_url(text: str, user: str = "") -> Remote:
    """Reads the address of a repository: `https://…`, `ssh://…`, `user@host:path`, `file://…` or a folder.

    Raises:
        InvalidArgumentError: If it is none of them, or has a password, a query or a fragment.
    """
    if not text or text.startswith("-") or "::" in text or re.search(r"[\s\x00-\x1f\x7f?#]", text):
        raise InvalidArgumentError(f"{_without_login(text)!r} is no address of a repository")
    protocol, mark, rest = text.partition("://")
    if mark:
        protocol = protocol.lower()
        if protocol not in ("https", "http", "ssh", "file"):
            raise InvalidArgumentError(f"a repository is reached by https, ssh, http or file, not by {protocol!r}")
        login, at, _ = rest.partition("/")[0].rpartition("@")
        if at and (protocol != "ssh" or ":" in login):
            raise InvalidArgumentError(
                f"{_without_login(text)!r} had a user or a password in it",
                hint="Keep it as a secret, and give the secret's name: git_token_secret_name.",
            )
        if at:
            rest = rest.partition("@")[2]
            return Remote(f"ssh://{rest}", "ssh", rest.partition("/")[0], login)
        host = urlsplit(text).netloc
        if protocol != "file" and (not host or host.startswith("-")):
            raise InvalidArgumentError(f"{text!r} names no server")
        return Remote(text, protocol, host, user if protocol == "ssh" else "")
    if Path(text).is_absolute():
        return Remote(text, "file")
    match = _SCP.fullmatch(text)
    if match is None or match["path"].startswith("-"):
        raise InvalidArgumentError(
            f"{text!r} is no address of a repository", hint="Give https://host/owner/name.git, or an absolute path."
        )
    return Remote(text, "ssh", match["host"])


def resolve(remote: Remote, ref: str, login: Login | SshKey | None = None) -> tuple[str, str]:
    """Returns the commit that a branch, a tag or nothing (the default branch) means, and that branch or tag.

    Raises:
        StorageError: If the repository cannot be reached, or has no such name.
    """
    if is_commit(ref):
        return ref, ""
    if ref.startswith("-") or re.search(r"[\s\x00-\x1f\x7f~^:?*\[\\]|\.\.", ref):
        raise InvalidArgumentError(f"{ref!r} is no name of a branch or a tag")
    names = [f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}"] if ref else ["HEAD"]
    text = _git(["ls-remote", "--symref", "--", remote.address, *names], remote=remote, login=login).decode()
    found: dict[str, str] = {}
    default = ""
    for line in text.splitlines():
        value, _, name = line.partition("\t")
        if value.startswith("ref: refs/heads/") and name == "HEAD":
            default = value.removeprefix("ref: refs/heads/")
        elif is_commit(value):
            found[name] = value
    if not ref and "HEAD" in found:
        return found["HEAD"], default
    branch, tag = (found.get(name) for name in names[:2]) if ref else (None, None)
    if branch and tag:
        raise StorageError(f"{remote.url} has a branch and a tag with the name {ref!r}", hint="Give the commit.")
    commit = branch or found.get(f"refs/tags/{ref}^{{}}") or tag
    if not commit:
        raise StorageError(
            f"{remote.url} has no branch or tag {ref!r}" if ref else f"{remote.url} has no commit yet",
            hint="Push it first, or correct the name.",
        )
    return commit, ref


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry of a commit's tree. `mode` is git's: `100644`, `100755`, `120000` a link, `160000` a submodule."""

    mode: str
    oid: str
    size: int
    path: str


class Mirror:
    """The commits of one repository that were needed here, in a bare repository.

    Args:
        folder: Of the bare repository; made when it is not there.
        remote: The repository.
        login: For its server.
    """

    def __init__(self, folder: Path, remote: Remote, login: Login | SshKey | None = None) -> None:
        self.folder = folder
        self._remote = remote
        self._login = login

    def ensure(self, commit: str, ref: str = "") -> None:
        """Fetches a commit unless it is here. Safe to call from several processes at once.

        Raises:
            StorageError: If the repository cannot be reached, or does not have the commit any more.
        """
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.folder.with_name(f"{self.folder.name}.lock")):
            if not (self.folder / "HEAD").is_file():
                form = ["--object-format=sha256"] if len(commit) == 64 else []
                _git(["init", "-q", "--bare", *form, "--", str(self.folder)])
            if not self._has(commit):
                self._fetch(commit, ref)

    def tree(self, commit: str, subdir: str = "") -> list[TreeEntry]:
        """Returns all entries that are no folders, with paths below `subdir`.

        Raises:
            StorageError: If the commit has no such folder.
        """
        try:
            data = self._run("ls-tree", "-r", "-z", "-l", "--full-tree", f"{commit}:{subdir}")
        except GitError as error:
            raise StorageError(f"commit {commit[:12]} of {self._remote.url} has no folder {subdir!r}") from error
        entries = []
        for line in data.decode("utf-8", "surrogateescape").split("\0")[:-1]:
            meta, _, path = line.partition("\t")
            mode, _, oid, size = meta.split()
            entries.append(TreeEntry(mode, oid, int(size) if size != "-" else 0, path))
        return entries

    def blobs(self, oids: Sequence[str]) -> Iterator[bytes]:
        """Yields the bytes of files, in the order of their names."""
        data = self._run("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in oids).encode())
        at = 0
        for oid in oids:
            end = data.index(b"\n", at)
            name, kind, size = data[at:end].decode().split()
            if name != oid or kind != "blob":
                raise StorageError(f"{self._remote.url} has a {kind} where a file was expected")
            yield data[end + 1 : end + 1 + int(size)]
            at = end + int(size) + 2

    def _has(self, commit: str) -> bool:
        try:
            self._run("cat-file", "-e", f"{commit}^{{tree}}")
        except GitError:
            return False
        return True

    def _fetch(self, commit: str, ref: str) -> None:
        # A ref of its own keeps the commit from being tidied away.
        kept = f"+{commit}:refs/heliograph/{commit}"
        try:
            self._fetch_by("--depth=1", kept)
        except GitError as error:
            # An old server gives tips of branches only: then the branch with its history, in which the commit is.
            names = [f"refs/heads/{ref}", f"refs/tags/{ref}"] if ref else ["HEAD"]
            for name in [] if isinstance(error, NoConnectionError) else names:
                with suppress(GitError):
                    self._fetch_by(f"--depth={_EVERYTHING}", f"+{name}:refs/heliograph/of-{commit}")
                if self._has(commit):
                    break
            if not self._has(commit):
                raise StorageError(
                    f"commit {commit} cannot be fetched from {self._remote.url}: {error}",
                    hint=error.hint or "Push the commit, or register again: its branch was rewritten.",
                ) from error

    def _fetch_by(self, depth: str, refspec: str) -> None:
        common = ["-q", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-maintenance"]
        arguments = ["fetch", *common, depth, "--", self._remote.address, refspec]
        _git(arguments, folder=self.folder, remote=self._remote, login=self._login)

    def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return _git(arguments, folder=self.folder, stdin=stdin)


def work_tree(*arguments: str, folder: Path) -> str | None:
    """Runs git in a work tree of this machine; None when it says no, or it is none."""
    try:
        return _git(arguments, folder=folder).decode("utf-8", "surrogateescape")
    except GitError:
        return None


def _git(
    arguments: Sequence[str],
    *,
    folder: Path | None = None,
    remote: Remote | None = None,
    login: Login | SshKey | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Runs git and returns what it prints."""
    if remote is not None:
        _check_protocol(remote, login)
    command = ["git", *(["-C", str(folder)] if folder is not None else []), *arguments]
    limit = config().storage.git_timeout_seconds
    with ExitStack() as kept:
        environment = _environment(remote, login)
        if remote is not None and remote.protocol == "ssh":
            key = login if isinstance(login, SshKey) else None
            try:
                environment |= kept.enter_context(ssh_command(key, limit))
            except OSError as error:
                raise GitError(f"the key for {remote.host} cannot be kept for ssh: {error}") from error
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=sys.platform != "win32",
            )
        except OSError as error:
            raise GitError(f"git cannot be run: {error.strerror}", hint="Install git where this runs.") from error
        try:
            out, err = process.communicate(stdin, timeout=limit)
        except subprocess.TimeoutExpired:
            raise GitError(
                f"git {arguments[0]} took longer than {limit:g} s{_of(remote)}",
                hint="Raise the setting storage.git_timeout_seconds, or look at the network.",
            ) from None
        finally:
            if process.poll() is None:
                _end(process)
    if process.returncode:
        text = _scrubbed(err.decode("utf-8", "replace").strip(), login)
        if remote is None:
            raise GitError(f"git {arguments[0]}: {reason(text)}")
        kind = NoConnectionError if NO_CONNECTION in text else GitError
        raise kind(
            f"git {arguments[0]} of {remote.url}: {reason(text, remote.protocol)}",
            hint=hint(text, remote.protocol, remote.host, login),
        )
    return out


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends git and what it started: its helpers for https and ssh."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _check_protocol(remote: Remote, login: Login | SshKey | None) -> None:
    from heliograph.client.channel import is_loopback

    near = remote.protocol == "http" and is_loopback(f"{urlsplit(remote.url).hostname}:80")
    allowed = config().storage.git_protocols
    if not near and remote.protocol not in allowed:
        raise StorageError(
            f"the protocol {remote.protocol} of {remote.url} is not allowed here; allowed: {', '.join(allowed)}",
            hint="Whoever owns this machine may add it to the setting storage.git_protocols.",
        )
    if isinstance(login, Login) and remote.protocol == "http" and not near:
        raise StorageError(
            f"a login is not sent to {remote.url}: everybody on the way could read it", hint="Use https."
        )


def _environment(remote: Remote | None, login: Login | SshKey | None) -> dict[str, str]:
    settings = [
        ("http.followRedirects", "false"),  # a login would follow
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
        ("credential.interactive", "false"),
        ("core.hooksPath", os.devnull),
        ("protocol.ext.allow", "never"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
    ]
    if isinstance(login, Login) and remote is not None and remote.protocol in ("https", "http"):
        settings.append((f"http.{remote.protocol}://{remote.host}/.extraHeader", login.header()))
        settings.append(("credential.helper", ""))
    # Heliograph's own variables have secrets and tokens, which are no business of git and ssh.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "HELIOGRAPH__")) or name in _KEPT
    }
    told = {
        **inherited,
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_ALLOW_PROTOCOL": remote.protocol if remote is not None else "none",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (name, value) in enumerate(settings):
        told[f"GIT_CONFIG_KEY_{number}"], told[f"GIT_CONFIG_VALUE_{number}"] = name, value
    return told


def _scrubbed(text: str, login: Login | SshKey | None) -> str:
    if isinstance(login, Login):
        for secret in (login.password, login.header().rpartition(" ")[2]):
            text = text.replace(secret, "***")
    return text


def _of(remote: Remote | None) -> str:
    return f" of {remote.url}" if remote is not None else ""


def _without_login(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//", text)
