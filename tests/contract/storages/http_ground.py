"""A folder of nginx with a password: the ground of HTTP storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.contract.storages.ground import HoldingGround, Refusal, moved
from tests.support.dav import PASSWORD, USER, DavServer, dav_server

from heliograph.config import set_temporary_config
from heliograph.storage import HTTP

__all__ = ["dav_server"]


class HttpGround(HoldingGround):
    """A folder that nginx takes PUT for."""

    kind = "http"
    one_maker = False  # nginx takes no heed of If-None-Match

    def open(self) -> None:
        """Binds the login to the server."""
        self.server: DavServer = self.request.getfixturevalue("dav_server")
        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        patch.setenv("HELIOGRAPH__SECRETS__DAV_LOGIN", f"{USER}:{PASSWORD}")
        patch.setenv("HELIOGRAPH__SECRETS__WRONG_LOGIN", f"{USER}:wr0ng-pass")
        # For processes that a test starts.
        patch.setenv("HELIOGRAPH__STORAGE__TOKENS", f"127.0.0.1:{self.server.port}=DAV_LOGIN")
        self.secrets = (PASSWORD, "wr0ng-pass")
        self.path = f"private/team-{uuid.uuid4().hex[:8]}"
        self.address = self.server.url
        self._tokens = set_temporary_config({"storage.tokens": (f"127.0.0.1:{self.server.port}=DAV_LOGIN",)})
        self._tokens.__enter__()

    def close(self) -> None:
        """Takes the binding away."""
        self._tokens.__exit__(None, None, None)

    def storage(self) -> HTTP:
        """Returns the storage."""
        return HTTP(f"{self.address}/{self.path}")

    @property
    def place(self) -> Path:
        """The folder on the server."""
        return self.server.folder / "files" / self.path

    def objects(self) -> dict[str, bytes]:
        """Returns the files."""
        found = (path for path in self.place.rglob("*") if path.is_file())
        return {path.relative_to(self.place).as_posix(): path.read_bytes() for path in found}

    def snapshot(self) -> Mapping[str, object]:
        """Returns the files with inode and time."""
        stats = {key: (self.place / key).stat() for key in self.objects()}
        return {key: (stat.st_ino, stat.st_mtime_ns) for key, stat in stats.items()}

    def put(self, key: str, data: bytes) -> None:
        """Writes a file past the storage."""
        (self.place / key).write_bytes(data)

    def delete(self, key: str) -> None:
        """Removes a file."""
        (self.place / key).unlink()

    def refusals(self) -> Iterator[Refusal]:
        """No login, a wrong one, and a server that only lets read."""

        @contextmanager
        def with_tokens(*tokens: str) -> Iterator[None]:
            with set_temporary_config({"storage.tokens": tokens}):
                yield

        host = f"127.0.0.1:{self.server.port}"
        yield Refusal("no login", with_tokens, "answers 401", r"storage\.tokens")
        yield Refusal("a wrong login", lambda: with_tokens(f"{host}=WRONG_LOGIN"), "answers 401", r"storage\.tokens")
        yield Refusal(
            "a server for readers",
            with_tokens,
            "answers 40[35]",
            "PUT|login",
            lambda: HTTP(f"{self.address}/readers/x"),
            fetches=False,
        )
        yield Refusal(
            "nothing there",
            with_tokens,
            "is not there",
            "Register",
            reference=lambda ref: moved(ref, f"{self.address}/open/nothing"),
            registers=False,
        )

    def outside(self, location: str) -> Iterator[str]:
        """Yields spellings that a web server might read as the same."""
        yield from super().outside(location)
        yield from (f"{location}//", location.replace("http://", "HTTP://"), location.replace("/team", "//team"))


GROUND = HttpGround
