"""What the grounds of servers with an API share: a repository, a clone of it, and what may happen to its archives."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.contract.storages.ground import Damage, Ground, Refusal, moved
from tests.support.git_host import TOKEN, Fault, HostDouble, HostRepository, Told
from tests.support.git_http import git

from heliograph.context import context
from heliograph.exceptions import StorageError
from heliograph.storage import BundleRef
from heliograph.storage.hosted import Hosted

WRONG = "wr0ng-t0ken-77aa"


def with_member(member: tarfile.TarInfo, data: bytes = b"", *, top: bool = True) -> Callable[[bytes], bytes]:
    """Returns what puts one more member into an archive, below its top folder or not."""

    def change(archive: bytes) -> bytes:
        buffer = io.BytesIO(gzip.decompress(archive))
        with tarfile.open(fileobj=buffer) as read:
            folder = read.getnames()[0].partition("/")[0]
        buffer.seek(0)
        with tarfile.open(fileobj=buffer, mode="a") as made:
            member.name = f"{folder}/{member.name}" if top else member.name
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
        return gzip.compress(buffer.getvalue())

    return change


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """Returns the head of a member."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


class HostGround(Ground):
    """A repository at a double, and a clone of it.

    Attributes:
        unseen: What is said of a repository that only tokens see.
        double_name: The fixture of the double, when it is not the kind.
    """

    double_name = ""
    unseen = "is not there, or is private"

    def open(self) -> None:
        """Makes the repository."""
        self.double: HostDouble = self.request.getfixturevalue(self.double_name or self.kind)
        self.double.asked.clear()
        self.repository: HostRepository = self.double.repository(f"shop/s{uuid.uuid4().hex[:8]}")
        self.secrets = (TOKEN, WRONG)

    def close(self) -> None:
        """Looks whether the double kept to its documents."""
        self.double.change = None
        self.double.faults.clear()
        wrong, self.double.violations = self.double.violations, []
        assert not wrong, wrong

    @abstractmethod
    def at(self, name: str, token: str = "") -> Hosted:
        """Returns the storage of a repository, with the name of a secret."""

    def storage(self) -> Hosted:
        """Returns the storage."""
        return self.at(self.repository.name)

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
        """Yields a repository that is another one, and archives that are none of the commit."""
        other = self.double.repository(f"shop/o{uuid.uuid4().hex[:8]}")
        other.commit({"flow.py": "print('evil')\n"})
        mine, name = self.repository, self.repository.name

        def put(found: HostRepository) -> Callable[[], None]:
            return lambda: self.double.repositories.update({name: found})

        def change(how: Callable[[bytes], bytes] | None) -> Callable[[], None]:
            return lambda: setattr(self.double, "change", how)

        def archive_of(data: bytes) -> bytes:
            del data
            return other.archive(other.commit_of("HEAD"), "x")

        def gone() -> None:
            del self.double.repositories[name]

        yield Damage("another repository in its place", put(other), StorageError, put(mine))
        yield Damage("no repository", gone, StorageError, put(mine))
        changes: dict[str, Callable[[bytes], bytes]] = {
            "cut short": lambda data: data[: len(data) // 2],
            "emptied": lambda _: b"",
            "no archive": lambda _: b"<html>Sign in</html>",
            "another commit's": archive_of,
            "with a file more": with_member(member("sitecustomize.py"), b"print('evil')"),
            "with a name that leads out": with_member(member("../../evil.py"), b"print('evil')"),
            "with a name from the root": with_member(member("/tmp/evil.py"), b"print('evil')", top=False),
            "with a link that leads out": with_member(member("out", tarfile.SYMTYPE, "/etc")),
            "with a hard link": with_member(member("out", tarfile.LNKTYPE, "/etc/passwd")),
            "with a device": with_member(member("out", tarfile.CHRTYPE)),
        }
        for how, changed in changes.items():
            yield Damage(f"archive {how}", change(changed), StorageError, change(None))

    def _of(self, url: str) -> Callable[[BundleRef], BundleRef]:
        return lambda ref: moved(ref, f"{url}#{ref.location.partition('#')[2]}")

    def refusals(self) -> Iterator[Refusal]:
        """No repository, one that wants a token, and a server that is down."""
        private = self.double.repository(f"shop/p{uuid.uuid4().hex[:8]}", private=True)
        private.commit({"a": "b"})
        missing = f"{self.repository.name}-none"

        @contextmanager
        def nothing() -> Iterator[None]:
            yield

        @contextmanager
        def wrong() -> Iterator[None]:
            with context(secrets={"READ": WRONG}):
                yield

        @contextmanager
        def broken() -> Iterator[None]:
            self.double.faults.append(Fault("/", Told.of(500, {"message": f"trouble with {WRONG}"}), times=99))
            with wrong():
                yield
            self.double.faults.clear()

        url = self._of(self.double.page(missing))
        yield Refusal("no repository", nothing, "is not there", "Correct the name", lambda: self.at(missing), url)
        yield Refusal(
            "no token", nothing, self.unseen, "storage.tokens",
            lambda: self.at(private.name), self._of(private.url),
        )  # fmt: skip
        yield Refusal(
            "a wrong token", wrong, "answers 401", "is it expired", lambda: self.at(private.name, "READ"), fetches=False
        )
        yield Refusal(
            "a broken server", broken, "answers 500", "Try again later",
            lambda: self.at(self.repository.name, "READ"), fetches=False,
        )  # fmt: skip
