"""A double of CodeCommit over real bare repositories: the ground of CodeCommit storage."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.storages.ground import Damage, Ground, Refusal, as_user, moved
from tests.support.codecommit import READER_KEY, REGION, SECRET_KEY, CodeCommitDouble, codecommit
from tests.support.git_host import Fault, HostRepository, Told
from tests.support.git_http import git

from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage import BundleRef, CodeCommit

__all__ = ["codecommit"]


class CodeCommitGround(Ground):
    """A repository at CodeCommit and a clone of it."""

    kind = "codecommit"

    def open(self) -> None:
        """Makes the repository."""
        self.double: CodeCommitDouble = self.request.getfixturevalue("codecommit")
        self.double.asked.clear()
        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        for name, value in self.double.environment.items():
            patch.setenv(name, value)
        self.repository: HostRepository = self.double.repository(f"s{uuid.uuid4().hex[:8]}")
        self.secrets = (SECRET_KEY,)

    def close(self) -> None:
        """Leaves the double as it was."""
        self.double.twist = None
        self.double.faults.clear()

    def storage(self) -> CodeCommit:
        """Returns the storage."""
        return CodeCommit(self.repository.name)

    def write(self, files: Mapping[str, str]) -> Path:
        """Commits files and pushes them."""
        self.repository.commit(files)
        return self.repository.clone

    def snapshot(self) -> Mapping[str, object]:
        """Returns branches and tags with their commits."""
        lines = git(self.repository.bare, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def vanish(self) -> None:
        """Removes the repository."""
        del self.double.repositories[self.repository.name]
        shutil.rmtree(self.repository.bare)

    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields a repository that is another one, and answers that are none of the commit."""
        other = self.double.repository(f"o{uuid.uuid4().hex[:8]}")
        strange = other.commit({"flow.py": "print('evil')\n"})
        mine, name = self.repository, self.repository.name

        def put(found: HostRepository) -> Callable[[], None]:
            return lambda: self.double.repositories.update({name: found})

        def twist(operation: str, how: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
            def twisted(asked: str, told: dict[str, Any]) -> dict[str, Any]:
                if asked == operation:
                    how(told)
                return told

            return lambda: setattr(self.double, "twist", twisted)

        def straight() -> None:
            self.double.twist = None

        def file(named: str) -> dict[str, str]:
            blob = mine.ask("rev-parse", f"HEAD:{mine.ask('ls-tree', '--name-only', 'HEAD').splitlines()[-1]}")
            return {"blobId": blob, "absolutePath": named, "relativePath": named, "fileMode": "NORMAL"}

        yield Damage("another repository in its place", put(other), StorageError, put(mine))
        yield Damage("no repository", lambda: self.double.repositories.pop(name) and None, StorageError, put(mine))

        def more(named: str) -> Callable[[dict[str, Any]], None]:
            return lambda told: told["files"].append(file(named))

        outside = {"relativePath": "..", "absolutePath": "..", "treeId": "0" * 40}
        changes: dict[str, tuple[str, Callable[[dict[str, Any]], None], type[StorageError]]] = {
            "a file with a letter more": (
                "GetBlob", lambda told: told.update(content=told["content"] + b"#"), StorageError,
            ),
            "a file that is empty": ("GetBlob", lambda told: told.update(content=b""), StorageError),
            "a file more": ("GetFolder", more("sitecustomize.py"), BundleChangedError),
            "a file less": ("GetFolder", lambda told: told["files"].pop(), BundleChangedError),
            "a file that may be executed": (
                "GetFolder", lambda told: told["files"][0].update(fileMode="EXECUTABLE"), BundleChangedError,
            ),
            "a name that leads out": ("GetFolder", more("../../evil.py"), StorageError),
            "a name from the root": ("GetFolder", more("/tmp/evil.py"), StorageError),
            "a folder that leads out": (
                "GetFolder", lambda told: told["subFolders"].append(outside), StorageError,
            ),
            "another commit's folder": ("GetFolder", lambda told: told.update(commitId=strange), StorageError),
            "another commit": ("GetCommit", lambda told: told["commit"].update(commitId=strange), StorageError),
        }  # fmt: skip
        for how, (operation, change, error) in changes.items():
            yield Damage(how, twist(operation, change), error, straight)

    def refusals(self) -> Iterator[Refusal]:
        """No repository, nobody, somebody who may not, somebody unknown, and a service that is down."""

        @contextmanager
        def broken() -> Iterator[None]:
            down = Told.of(503, {"__type": "ServiceUnavailable", "message": "try later"})
            self.double.faults.append(Fault("Get", down, times=99))
            yield
            self.double.faults.clear()

        missing = f"{self.repository.name}-none"
        yield Refusal(
            "no repository", as_user, "is not there", "Correct the name or the region", lambda: CodeCommit(missing),
            lambda ref: moved(ref, f"codecommit://{REGION}/{missing}#{ref.location.partition('#')[2]}"),
        )  # fmt: skip
        nobody = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
        yield Refusal("nobody", lambda: as_user(**nobody), "cannot be read", "AWS_PROFILE")
        yield Refusal(
            "no rights", lambda: as_user(AWS_ACCESS_KEY_ID=READER_KEY), "AccessDenied", "codecommit:GetRepository"
        )
        yield Refusal(
            "an unknown user", lambda: as_user(AWS_ACCESS_KEY_ID="AKIANOBODYKNOWSTHIS0"), "Unrecognized", "credentials"
        )
        yield Refusal("a service that is down", broken, "ServiceUnavailable", "Try again later", fetches=False)

    def port(self) -> int:
        """Returns the double's port."""
        return int(self.double.address().rpartition(":")[2])

    @contextmanager
    def via(self, port: int) -> Iterator[None]:
        """Points boto3 there."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL_CODECOMMIT", f"http://127.0.0.1:{port}")
            yield


GROUND = CodeCommitGround
