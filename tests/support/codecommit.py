"""A double of CodeCommit over real bare repositories, held to botocore's description of the service at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from tests.support.aws_wire import ServiceError, Shapes, check_headers
from tests.support.git_host import Asked, HostDouble, HostRepository, Told, running

REGION = "eu-west-1"
ACCESS_KEY, SECRET_KEY = "AKIAHELIOGRAPHTESTS1", "not-a-secret-but-long-enough-for-two"
READER_KEY = "AKIAHELIOGRAPHNOBODY"
_TARGET = "CodeCommit_20150413."
_MAX_BLOB = 6 * 1024 * 1024
_MODES = {"100644": "NORMAL", "100755": "EXECUTABLE", "120000": "SYMLINK"}
_SHAPES = Shapes("codecommit", "InvalidRepositoryNameException")


class CodeCommitDouble(HostDouble):
    """The calls that read a repository. Names have no owner: an account has them, in a region.

    Attributes:
        twist: What becomes of an answer before it is sent, by its operation.
    """

    kind = "codecommit"
    closes = False
    twist: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None

    def page(self, name: str) -> str:
        """Returns the repository, as references name it."""
        return f"codecommit://{REGION}/{name}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which an AWS client may call it."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_ENDPOINT_URL_CODECOMMIT": self.site(),
        }  # fmt: skip

    def named(self, path: str, headers: Mapping[str, str]) -> str:
        """Returns the operation."""
        return headers.get("x-amz-target", path).removeprefix(_TARGET)

    def answer(self, asked: Asked) -> Told:
        """Does a call."""
        status, body, headers = _SHAPES.answered(asked.path, asked.body, lambda document: self._done(asked, document))
        return Told(status, body, headers)

    def _done(self, asked: Asked, document: dict[str, Any]) -> dict[str, Any]:
        headers = {name.title(): text for name, text in asked.headers.items()}
        check_headers(headers, {ACCESS_KEY, READER_KEY})
        if READER_KEY in headers["Authorization"]:
            raise ServiceError("AccessDeniedException", f"User: arn is not authorized to perform: {asked.path}")
        found = self.repositories.get(document["repositoryName"])
        if found is None:
            raise ServiceError("RepositoryDoesNotExistException", f"{document['repositoryName']} does not exist")
        known: dict[str, Callable[[HostRepository, dict[str, Any]], dict[str, Any]]] = {
            "GetRepository": self._repository, "GetBranch": self._branch, "GetCommit": self._commit,
            "GetFolder": self._folder, "GetBlob": self._blob,
        }  # fmt: skip
        told = known[asked.path](found, document)
        return self.twist(asked.path, told) if self.twist is not None else told

    def _repository(self, found: HostRepository, document: dict[str, Any]) -> dict[str, Any]:
        about = {"accountId": "123456789012", "repositoryName": found.name, "repositoryId": str(found.number)}
        if found.ask("for-each-ref", "refs/heads"):
            about["defaultBranch"] = "main"
        return {"repositoryMetadata": about}

    def _branch(self, found: HostRepository, document: dict[str, Any]) -> dict[str, Any]:
        name = document["branchName"]
        commit = found.commit_of(f"refs/heads/{name}")
        if not commit:
            raise ServiceError("BranchDoesNotExistException", f"Could not find branch {name}")
        return {"branch": {"branchName": name, "commitId": commit}}

    def _commit(self, found: HostRepository, document: dict[str, Any]) -> dict[str, Any]:
        commit = found.commit_of(document["commitId"])
        if not commit:
            raise ServiceError("CommitIdDoesNotExistException", f"Could not find commit {document['commitId']}")
        tree, parents, text = found.ask("log", "-1", "--format=%T%n%P%n%B", commit).split("\n", 2)
        return {"commit": {"commitId": commit, "treeId": tree, "parents": parents.split(), "message": text}}

    def _folder(self, found: HostRepository, document: dict[str, Any]) -> dict[str, Any]:
        commit, folder = found.commit_of(document.get("commitSpecifier") or "HEAD"), document["folderPath"].strip("/")
        if not commit:
            raise ServiceError("CommitDoesNotExistException", f"Could not find {document.get('commitSpecifier')}")
        if folder and found.ask("cat-file", "-t", f"{commit}:{folder}") != "tree":
            raise ServiceError("FolderDoesNotExistException", f"Could not find folder {folder}")
        told: dict[str, Any] = {
            "commitId": commit,
            "folderPath": folder,
            "treeId": found.ask("rev-parse", f"{commit}:{folder}"),
        }
        told |= {kind: [] for kind in ("subFolders", "files", "symbolicLinks", "subModules")}
        for mode, kind, oid, _, name in found.tree(f"{commit}:{folder}"):
            item = {"absolutePath": f"{folder}/{name}" if folder else name, "relativePath": name}
            if kind == "tree":
                told["subFolders"].append({**item, "treeId": oid})
            elif kind == "commit":
                told["subModules"].append({**item, "commitId": oid})
            else:
                place = "symbolicLinks" if mode == "120000" else "files"
                told[place].append({**item, "blobId": oid, "fileMode": _MODES[mode]})
        return told

    def _blob(self, found: HostRepository, document: dict[str, Any]) -> dict[str, Any]:
        if found.ask("cat-file", "-t", document["blobId"]) != "blob":
            raise ServiceError("BlobIdDoesNotExistException", f"Could not find blob {document['blobId']}")
        data = found.read("cat-file", "blob", document["blobId"])
        if len(data) > _MAX_BLOB:
            raise ServiceError("FileTooLargeException", "The file is too large")
        return {"content": data}


@pytest.fixture(scope="session")
def codecommit() -> Iterator[CodeCommitDouble]:
    """A double of CodeCommit."""
    with running(CodeCommitDouble) as made:
        assert isinstance(made, CodeCommitDouble)
        yield made
