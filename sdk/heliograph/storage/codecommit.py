"""Commits of a repository at AWS CodeCommit, read through its API: folder by folder, and each file by its git name."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, ClassVar, Literal

from heliograph.config import config
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.compat import accept_common
from heliograph.storage.git_client import TreeEntry
from heliograph.storage.hosted import check_ref, git_name
from heliograph.storage.manifest import MAX_FILES
from heliograph.storage.pin import Pin, is_commit
from heliograph.storage.repository import CommitFiles, Repository, check_size, sift
from heliograph.utilities.aws import aws_client, error_code

__all__ = ["CodeCommit"]

_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d{1,2}")
_AT_ONCE = 8
_READ_SECONDS = 30
_MODES = {"NORMAL": "100644", "EXECUTABLE": "100755", "SYMLINK": "120000"}
_NO_COMMIT = frozenset({"CommitDoesNotExistException", "CommitIdDoesNotExistException", "InvalidCommitException"})
_NO_BRANCH = frozenset({"BranchDoesNotExistException"})
_NO_FOLDER = frozenset({"FolderDoesNotExistException"})
_UNKNOWN = frozenset(
    {"UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "InvalidClientTokenId",
     "IncompleteSignatureException", "IncompleteSignature", "MissingAuthenticationTokenException"}
)  # fmt: skip
_HINTS = {
    "AccessDeniedException": "Let these credentials call codecommit:GetRepository, GetBranch, GetCommit, GetFolder and"
    " GetBlob of it.",
    "RepositoryDoesNotExistException": "Correct the name or the region, or use credentials of the account that has it.",
    "FileTooLargeException": "CodeCommit's API gives no files of more than 6 MB: use Git storage, or subdir=….",
    "EncryptionKeyAccessDeniedException": "Let these credentials decrypt with its key: kms:Decrypt.",
    "ThrottlingException": "AWS wants fewer requests: try again later.",
}


class CodeCommit(Repository):
    """A flow in a repository at CodeCommit. Nothing is uploaded: agents fetch the commit of registration.

    Args:
        repo: Name of the repository.
        path: The flow's file in the repository; found from the flow's own file when not given.
        commit: Branch, tag, whole name of a commit, or a reference such as `refs/heads/main`; by default the
            repository's default branch.
        client_options: Keyword arguments of `boto3.client` at registration, such as `region_name`. Agents get the
            region and nothing else: they use `AWS_ENDPOINT_URL_CODECOMMIT`. Keep credentials out.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit of registration. `branch`: each run uses the newest one of the branch.
        launch: `agent` when agents' own files give the values of variables; see `Repository`.
        **prefect: What Prefect 1 had besides; see `Git`.
    """

    kind: ClassVar[str] = "codecommit"

    def __init__(
        self,
        repo: str,
        path: str | None = None,
        commit: str | None = None,
        client_options: Mapping[str, Any] | None = None,
        *,
        subdir: str = "",
        pin: Literal["commit", "branch"] = "commit",
        launch: Literal["", "agent"] = "",
        **prefect: Any,
    ) -> None:
        accept_common("CodeCommit", prefect, scripts_only=True)
        if not _NAME.fullmatch(repo) or not repo.strip("."):
            raise InvalidArgumentError(f"{repo!r} is no name of a repository at CodeCommit")
        super().__init__(path, ref=commit, subdir=subdir, pin=pin, launch=launch)
        check_ref(self.ref)
        self.repo = repo
        self.client_options = dict(client_options or {})
        self._region = str(self.client_options.get("region_name") or "")
        self._client: Any = None

    @classmethod
    def at(cls, location: str, host: str = "") -> CodeCommit:
        """Returns the storage of `codecommit://region/repository`, to fetch from. Any host may."""
        del host
        pin = Pin.parse(location)
        scheme, _, rest = pin.url.partition("://")
        region, _, repo = rest.partition("/")
        if scheme != "codecommit" or not _REGION.fullmatch(region):
            raise StorageError(f"{pin.url!r} is no location of CodeCommit: codecommit://region/repository is expected")
        made = cls(repo, client_options={"region_name": region})
        made._pinned = pin
        return made

    @property
    def url(self) -> str:
        """`codecommit://region/repository`; the region is known when it was given, or at registration."""
        return f"codecommit://{self._region or 'default-region'}/{self.repo}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def _calls(self) -> _Calls:
        if self._client is None:
            self._client = aws_client(
                "codecommit", self.client_options, name="CodeCommit", read_timeout=_READ_SECONDS, connect_timeout=10
            )
            self._region = str(self._client.meta.region_name)
        return _Calls(self._client, self.repo, self.url)

    # --- which commit ------------------------------------------------------------------------------------------------

    def _resolve(self, ref: str) -> tuple[str, str]:
        calls = self._calls()
        if is_commit(ref):
            return ref, ""
        wanted = ref
        if not ref:
            ref = str(calls("get_repository")["repositoryMetadata"].get("defaultBranch") or "")
        if not ref:
            raise StorageError(f"{self.url} has no commit yet", hint="Push it first.")
        found = set(_commits(calls, ref))
        if len(found) == 2:
            raise StorageError(
                f"{self.url} has a branch and a tag with the name {ref!r}",
                hint="Give refs/heads/… or refs/tags/…, or the commit.",
            )
        commit = next(iter(found), "")
        if not commit:
            said = f"no branch or tag {ref!r}" if wanted else f"no branch {ref!r}, which is its default one"
            raise StorageError(f"{self.url} has {said}", hint="Push it first, or correct the name.")
        if not is_commit(commit):
            raise _strange(f"{self.url}: CodeCommit answers with no name of a commit")
        return commit, ref

    # --- its files ---------------------------------------------------------------------------------------------------

    def _files(self, pin: Pin, cache: Path) -> CommitFiles:
        del cache  # nothing but the bundle itself is kept
        calls = self._calls()
        told = calls("get_commit", also=_NO_COMMIT, commitId=pin.commit)
        if told is None:
            raise self._gone(pin)
        if told["commit"].get("commitId", pin.commit) != pin.commit:
            raise _strange(f"{self.url}: CodeCommit answers for another commit than {pin.commit[:12]}")
        by_path = {entry.path: entry for entry in _tree(calls, pin)}
        taken, left = sift([(entry.mode, entry.path) for entry in by_path.values()])
        blobs = _blobs(calls, [by_path[path] for path in taken])
        contents = {path: blobs[by_path[path].oid] for path in taken}
        check_size(sum(len(data) for data in contents.values()))
        return CommitFiles(
            contents=contents,
            executable=frozenset(path for path in taken if by_path[path].mode == "100755"),
            left=tuple(left),
        )


class _Calls:
    """Calls that end by the setting `storage.http_timeout_seconds`, all of them together. Threads share it.

    Args:
        client: The client; botocore tries again where that may help, throttling first of all.
        repo: Name of the repository.
        url: The repository, for messages.
    """

    def __init__(self, client: Any, repo: str, url: str) -> None:
        self._client, self._repo, self.url = client, repo, url
        self._limit = config().storage.http_timeout_seconds
        self._deadline = time.monotonic() + self._limit

    def __call__(self, operation: str, *, also: Collection[str] = (), **arguments: str) -> Any:
        """Returns an answer; None when it is one of the errors of `also`.

        Raises:
            StorageError: AWS says no, or cannot be reached, or it took too long.
        """
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        if time.monotonic() > self._deadline:
            raise StorageError(
                f"{self.url} took longer than {self._limit:g} s",
                hint="Raise the setting storage.http_timeout_seconds, or look at the network.",
            )
        try:
            return getattr(self._client, operation)(repositoryName=self._repo, **arguments)
        except ClientError as error:
            code = error_code(error)
            if code in also:
                return None
            hint = _HINTS.get(code, "AWS is in trouble, or refuses the call. Try again later.")
            if code in _UNKNOWN:
                hint = "Check the credentials of this machine: AWS does not know them, or they expired."
            said = "is not there" if code == "RepositoryDoesNotExistException" else f"cannot be read: {error}"
            raise StorageError(f"{self.url} {said}", hint=hint) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StorageError(
                f"{self.url} cannot be read: {error}",
                hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role.",
            ) from error
        except BotoCoreError as error:
            raise StorageError(
                f"{self.url} cannot be read: {error}", hint="Check the way to AWS from here, and the region."
            ) from error


def _commits(calls: _Calls, ref: str) -> Iterator[str]:
    """Yields what a branch and a tag of that name mean."""
    kind, _, name = ref.removeprefix("refs/").partition("/") if ref.startswith("refs/") else ("", "", ref)
    if kind in ("", "heads"):
        told = calls("get_branch", also=_NO_BRANCH, branchName=name)
        if told is not None:
            yield str(told["branch"]["commitId"])
    if kind != "heads":  # the API has no call for tags, but reads any reference
        full = f"refs/{kind or 'tags'}/{name}"
        told = calls("get_folder", also=_NO_COMMIT | _NO_FOLDER, commitSpecifier=full, folderPath="")
        if told is not None:
            yield str(told["commitId"])


def _tree(calls: _Calls, pin: Pin) -> Sequence[TreeEntry]:
    """Returns what is below the pin's folder in its commit, with paths below that folder."""
    entries: list[TreeEntry] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        where = "/".join(part for part in (pin.subdir, folder) if part)
        told = calls("get_folder", also=_NO_FOLDER, commitSpecifier=pin.commit, folderPath=where)
        if told is None:
            raise StorageError(f"commit {pin.commit[:12]} of {pin.url} has no folder {where!r}")
        if told["commitId"] != pin.commit:
            raise _strange(f"{calls.url}: CodeCommit answers for another commit than {pin.commit[:12]}")
        files = [(_MODES[item["fileMode"]], item) for item in told.get("files") or ()]
        files += [("120000", item) for item in told.get("symbolicLinks") or ()]
        files += [("160000", item) for item in told.get("subModules") or ()]
        for mode, item in files:
            oid = str(item.get("blobId") or item.get("commitId") or "")
            entries.append(TreeEntry(mode, oid, 0, _below(folder, item)))
        pending += [_below(folder, item) for item in told.get("subFolders") or ()]
        if len(entries) + len(pending) > MAX_FILES:
            raise StorageError(
                f"commit {pin.commit[:12]} of {pin.url} has more than {MAX_FILES:,} files",
                hint="Give a folder of it: subdir=….",
            )
    return entries


def _below(folder: str, item: Mapping[str, Any]) -> str:
    name = str(item.get("relativePath") or "")
    if "/" in name or name in ("", ".", ".."):
        raise _strange(f"CodeCommit lists {name[:100]!r}, which is no name in a folder")
    return f"{folder}/{name}" if folder else name


def _blobs(calls: _Calls, entries: Sequence[TreeEntry]) -> dict[str, bytes]:
    """Returns contents by their names, each compared with it."""
    paths = {entry.oid: entry.path for entry in entries}
    found: dict[str, bytes] = {}
    total = 0
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="codecommit")
    try:
        asked = {pool.submit(calls, "get_blob", blobId=oid): oid for oid in paths}
        for future in as_completed(asked):
            oid, data = asked[future], bytes(future.result()["content"])
            if git_name(data, oid) != oid:
                raise _strange(f"{calls.url}: CodeCommit gives another {paths[oid]} than the commit has")
            total += len(data)
            check_size(total)
            found[oid] = data
    finally:
        pool.shutdown(cancel_futures=True)  # a call under way ends by botocore's own limits
    return found


def _strange(message: str) -> StorageError:
    return StorageError(message, hint="Somebody on the way changed it, or the service is broken.")
