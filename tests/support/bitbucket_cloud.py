"""A double of Bitbucket Cloud over real bare repositories: its API 2.0, and the archives of its pages.

Made after Atlassian's documents: no package of a registry has its OpenAPI, and nothing of the cloud was recorded.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.support.git_host import Asked, HostDouble, HostRepository, Told, parts_of, running, token_of

USER = "dev@example.org"
POINTER = b"version https://git-lfs.github.com/spec/"
_PAGE = 100


class BitbucketCloudDouble(HostDouble):
    """The calls that read a repository. Names are `workspace/slug`.

    Attributes:
        too_deep: Whether a list of more than one level takes too long.
        no_bearers: What archives answer to access tokens; None when they take them.
    """

    kind = "bitbucket"
    too_deep = False
    no_bearers: Told | None = None

    def answer(self, asked: Asked) -> Told:
        """Finds the repository, and looks whether the login may see it."""
        path, query = parts_of(asked.path)
        api = re.fullmatch(r"/2\.0/repositories/([^/]+/[^/]+)(?:/(.*))?", path)
        pages = re.fullmatch(r"/([^/]+/[^/]+)/get/([0-9a-f]{40})\.tar\.gz", path)
        login = _login_of(asked.headers)
        if api is None and pages is None:
            return _error(404, "Resource not found")
        if login is not None and login not in self.tokens:
            return _error(401, "Token is invalid, expired, or not supported for this endpoint.")
        name = (api or pages)[1]  # type: ignore[index]
        found = self.repositories.get(name)
        moved = next((one for one in self.repositories.values() if name in one.former), None)
        if found is None and moved is not None and self.sees(login, moved):
            return Told(301, b"", {"location": f"{self.site()}{asked.path.replace(name, moved.name, 1)}"})
        if pages is not None:
            return self._packed(found, pages[2], login, asked)
        if found is None or not self.sees(login, found):
            return _error(404, "You may not have access to this repository or it no longer exists in this workspace.")
        assert api is not None
        return self._repository(found, urllib.parse.unquote(api[2] or ""), query)

    def _packed(self, found: HostRepository | None, commit: str, login: str | None, asked: Asked) -> Told:
        if found is None or not self.sees(login, found):
            return Told(404, b"<!DOCTYPE html>Repository not found", {"content-type": "text/html; charset=utf-8"})
        if self.no_bearers is not None and asked.headers.get("authorization", "").startswith("Bearer"):
            return self.no_bearers
        if not found.commit_of(commit):
            return Told(404, b"<!DOCTYPE html>", {"content-type": "text/html; charset=utf-8"})
        data = self.packed(found, commit, f"{found.name.replace('/', '-')}-{commit[:12]}")
        return Told(200, data, {"content-type": "application/x-gzip"})

    def _repository(self, found: HostRepository, rest: str, query: dict[str, str]) -> Told:
        kind, _, name = rest.partition("/")
        if not rest:
            branch = {"type": "branch", "name": "main"} if found.commit_of("refs/heads/main") else None
            about = {"type": "repository", "full_name": found.name, "mainbranch": branch, "is_private": found.private}
            return Told.of(200, {**about, "slug": found.name.partition("/")[2], "scm": "git"})
        if kind == "refs":
            sort, _, ref = name.partition("/")
            commit = found.commit_of(f"refs/{'heads' if sort == 'branches' else 'tags'}/{ref}")
            if not commit:
                return _error(404, f"{'Branch' if sort == 'branches' else 'Tag'} {ref} not found")
            target = {"type": "commit", "hash": commit}
            return Told.of(200, {"type": sort.removesuffix("es"), "name": ref, "target": target})
        if kind == "commit":
            commit = found.commit_of(name)
            return Told.of(200, {"type": "commit", "hash": commit}) if commit else _error(404, "Commit not found")
        if kind == "src":
            commit, _, path = name.partition("/")
            if not found.commit_of(commit):
                return _error(404, "Commit not found")
            return self._source(found, commit, path, query)
        return _error(404, "Resource not found")

    def _source(self, found: HostRepository, commit: str, path: str, query: Mapping[str, str]) -> Told:
        if path and not path.endswith("/"):
            if found.ask("cat-file", "-t", f"{commit}:{path}") != "blob":
                return _error(404, f"No such file or directory: {path}")
            data = found.read("cat-file", "blob", f"{commit}:{path}")
            if data.startswith(POINTER):
                return Told(301, b"", {"location": f"http://{self.address('files')}/media"})
            return Told(200, data, {"content-type": "application/octet-stream", "content-disposition": "attachment"})
        depth, size = int(query.get("max_depth", 1)), int(query.get("pagelen", 10))
        if size > _PAGE:
            return _error(400, "Invalid pagelen")
        if self.too_deep and depth > 1:
            return _error(555, "The call timed out")
        if path and found.ask("cat-file", "-t", f"{commit}:{path}") != "tree":
            return _error(404, f"No such file or directory: {path}")
        begin = path.count("/")
        listed = found.tree(commit, "-r", "-t")
        entries = [
            self._entry(found, commit, mode, kind, size, name)
            for mode, kind, _, size, name in listed
            if len(name) > len(path) and name.startswith(path) and name.count("/") - begin < depth
        ]
        at = int(query.get("page", "0").removeprefix("p"))
        about: dict[str, Any] = {"pagelen": size, "page": 1, "values": entries[at : at + size]}
        if at + size < len(entries):
            more = urllib.parse.urlencode({**query, "page": f"p{at + size}"})
            about["next"] = f"https://api.bitbucket.internal/2.0/repositories/{found.name}/src/{commit}/{path}?{more}"
        return Told.of(200, about)

    @staticmethod
    def _entry(found: HostRepository, commit: str, mode: str, kind: str, size: str, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"path": path, "commit": {"type": "commit", "hash": commit}}
        if kind == "tree":
            return {**entry, "type": "commit_directory"}
        words = {"160000": ["subrepository"], "120000": ["link"], "100755": ["executable"]}.get(mode, [])
        if kind == "blob" and found.read("cat-file", "blob", f"{commit}:{path}").startswith(POINTER):
            return {**entry, "type": "commit_file", "attributes": ["lfs"], "size": 10**12}
        sized = {"size": int(size)} if kind == "blob" else {}
        return {**entry, **sized, "type": "commit_file", "attributes": words}


def _login_of(headers: Mapping[str, str]) -> str | None:
    """Returns the token of a request, however it was sent."""
    kind, _, text = headers.get("authorization", "").partition(" ")
    if kind != "Basic":
        return token_of(headers)
    user, _, password = base64.b64decode(text).decode().partition(":")
    return password if user == USER else "somebody else's"


def _error(status: int, message: str) -> Told:
    return Told.of(status, {"type": "error", "error": {"message": message}})


@pytest.fixture(scope="session")
def bitbucket_cloud() -> Iterator[BitbucketCloudDouble]:
    """A double of Bitbucket Cloud."""
    with running(BitbucketCloudDouble) as made:
        assert isinstance(made, BitbucketCloudDouble)
        yield made
