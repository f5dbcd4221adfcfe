"""A double of GitLab's API, version 4, over real bare repositories: the calls that read a project's repository."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.git_host import Asked, HostDouble, HostRepository, Told, parts_of, running, token_of

ROOT = "/code"
"""Where the double's pages begin: servers of one's own often have such a path."""


class GitLabDouble(HostDouble):
    """The calls that read a project."""

    kind = "gitlab"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.scopes: dict[str, str] = {}

    def site(self) -> str:
        """Returns the address of the pages."""
        return f"http://{self.address()}{ROOT}"

    def answer(self, asked: Asked) -> Told:
        """Finds the project, and looks whether the token may see it."""
        raw, query = parts_of(asked.path)
        match = re.fullmatch(rf"{ROOT}/api/v4/projects/([^/]+)(/.*)?", raw)
        if match is None:
            return _error(404, "404 Not Found")
        token = token_of(asked.headers)
        if token is not None and token not in self.tokens:
            return _error(401, "401 Unauthorized")
        if self.scopes.get(token or "", "api") not in ("api", "read_api"):
            about = {"error": "insufficient_scope", "error_description": "The request requires higher privileges.",
                     "scope": "api read_api"}  # fmt: skip
            return Told.of(403, about)
        name, rest = urllib.parse.unquote(match[1]), match[2] or ""
        found = self.repositories.get(name) or next(
            (one for one in self.repositories.values() if str(one.number) == name), None
        )
        moved = next((one for one in self.repositories.values() if name in one.former), None)
        if found is None and moved is not None and self.sees(token, moved):
            # Servers before 18.6 lose the ending of the archive's name here.
            place = f"http://{self.address()}{ROOT}/api/v4/projects/{moved.number}{rest.removesuffix('.tar.gz')}"
            place += f"?{urllib.parse.urlencode(query)}" if query else ""
            return Told.of(301, {"message": f"This resource has been moved permanently to {place}"}, location=place)
        if found is None or not self.sees(token, found):
            return _error(404, "404 Project Not Found")
        return self._project(found) if not rest else self._repository(found, rest, query)

    def _project(self, found: HostRepository) -> Told:
        branch = "main" if found.commit_of("refs/heads/main") else None
        return Told.of(
            200,
            {
                "id": found.number, "name": found.name.rpartition("/")[2], "path_with_namespace": found.name,
                "default_branch": branch, "archived": found.archived, "empty_repo": branch is None,
                "visibility": "private" if found.private else "public", "web_url": found.url,
            },
        )  # fmt: skip

    def _repository(self, found: HostRepository, rest: str, query: dict[str, str]) -> Told:
        kind, _, name = rest.removeprefix("/repository/").partition("/")
        name = urllib.parse.unquote(name)
        if kind in ("branches", "tags"):
            commit = found.commit_of(f"refs/{'heads' if kind == 'branches' else 'tags'}/{name}")
            if not commit:
                return _error(404, "404 Branch Not Found" if kind == "branches" else "404 Tag Not Found")
            return Told.of(200, {"name": name, "commit": {"id": commit, "short_id": commit[:8]}})
        if kind == "commits":
            commit = found.commit_of(name)
            if not commit:
                return _error(404, "404 Commit Not Found")
            return Told.of(200, {"id": commit, "short_id": commit[:8]})
        if kind == "tree":
            return self._tree(found, query)
        if kind == "blobs" and name.endswith("/raw"):
            oid = name.removesuffix("/raw")
            if found.ask("cat-file", "-t", oid) != "blob":
                return _error(404, "404 Blob Not Found")
            return Told(200, found.read("cat-file", "blob", oid), {"content-type": "text/plain"})
        if kind in ("archive.tar.gz", "archive"):
            commit = found.commit_of(query["sha"])
            if not commit:
                return _error(404, "404 File Not Found")
            top = f"{found.name.rpartition('/')[2]}-{query['sha']}-{commit}"
            top += f"-{query['path'].replace('/', '-')}" if "path" in query else ""
            data = self.packed(found, commit, top, *([query["path"]] if "path" in query else []))
            return Told(200, data, {"content-type": "application/octet-stream"})
        return _error(404, "404 Not Found")

    def _tree(self, found: HostRepository, query: dict[str, str]) -> Told:
        commit, path = found.commit_of(query["ref"]), query.get("path", "")
        if not commit:
            return _error(404, "404 Tree Not Found")
        if not found.ask("cat-file", "-t", f"{commit}:{path}"):
            return _error(404, "404 invalid revision or path Not Found")
        entries = [
            {
                "id": oid, "name": inner.rpartition("/")[2], "type": kind, "mode": mode,
                "path": f"{path}/{inner}" if path else inner,
            }
            for mode, kind, oid, _, inner in found.tree(f"{commit}:{path}", "-r", "-t")
        ]  # fmt: skip
        assert query["pagination"] == "keyset"
        size = int(query["per_page"])
        start = int(query.get("page_token", "0"))
        headers = {}
        if start + size < len(entries):
            more = urllib.parse.urlencode({**query, "page_token": str(start + size)})
            # The address that a server behind a proxy knows itself by, which is not always everybody's.
            headers["link"] = f'<http://gitlab.inside/api/v4/projects/1/repository/tree?{more}>; rel="next"'
        return Told(
            200, json.dumps(entries[start : start + size]).encode(), {"content-type": "application/json", **headers}
        )


def _error(status: int, message: str) -> Told:
    return Told.of(status, {"message": message})


@pytest.fixture(scope="session")
def gitlab() -> Iterator[GitLabDouble]:
    """A double of GitLab."""
    with running(GitLabDouble) as made:
        assert isinstance(made, GitLabDouble)
        yield made
