"""Repositories on nginx and git-http-backend: the ground of Git storage."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.contract.storages.ground import Damage, Ground, Refusal, moved
from tests.support.git_http import PASSWORD, GitRepository, GitServer, git

from heliograph.context import context
from heliograph.exceptions import StorageError
from heliograph.storage import BundleRef, Git

__all__: list[str] = []


class GitGround(Ground):
    """A repository and a clone of it."""

    kind = "git"

    def open(self) -> None:
        """Makes the repository, and a private one."""
        self.server: GitServer = self.request.getfixturevalue("git_server")
        self.repository: GitRepository = self.server.repository(f"s{uuid.uuid4().hex[:8]}")
        self.secrets = (PASSWORD, "wr0ng-t0ken")

    def storage(self) -> Git:
        """Returns the storage."""
        return Git(repo=self.repository.url)

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
        shutil.rmtree(self.repository.bare)

    def damages(self, ref: BundleRef) -> Iterator[Damage]:
        """Yields a repository that is another one, and one that is gone."""
        bare, aside = self.repository.bare, self.repository.bare.with_name("aside.git")
        other = self.server.repository(f"o{uuid.uuid4().hex[:8]}")
        other.commit({"flow.py": "print('evil')\n"})

        def replace() -> None:
            bare.rename(aside)
            shutil.copytree(other.bare, bare)

        def back() -> None:
            shutil.rmtree(bare, ignore_errors=True)
            aside.rename(bare)

        def damage() -> None:
            shutil.copytree(bare, aside)
            for path in [path for path in (bare / "objects").rglob("*") if path.is_file()]:
                path.chmod(0o644)
                path.write_bytes(path.read_bytes()[:-8])

        yield Damage("another repository in its place", replace, StorageError, back)
        yield Damage("no repository", lambda: bare.rename(aside) and None, StorageError, back)
        yield Damage("objects cut short", damage, StorageError, back)

    def _of(self, url: str) -> Callable[[BundleRef], BundleRef]:
        return lambda ref: moved(ref, f"{url}#{ref.location.partition('#')[2]}")

    def refusals(self) -> Iterator[Refusal]:
        """No repository, and one that wants a login."""
        private = self.server.repository(f"p{uuid.uuid4().hex[:8]}", private=True)
        private.commit({"a": "b"})

        @contextmanager
        def nothing() -> Iterator[None]:
            yield

        @contextmanager
        def wrong() -> Iterator[None]:
            with context(secrets={"READ": "wr0ng-t0ken"}):
                yield

        missing = self.repository.url.replace("/open/", "/open/no-such-")
        yield Refusal("no repository", nothing, "no-such-", "repository", lambda: Git(repo=missing), self._of(missing))
        yield Refusal(
            "no login", nothing, "Username", "storage.tokens", lambda: Git(repo=private.url), self._of(private.url)
        )
        yield Refusal(
            "a wrong login",
            wrong,
            private.url.partition("://")[2],
            "",
            lambda: Git(repo=private.url, git_token_secret_name="READ"),
            fetches=False,
        )


GROUND = GitGround
