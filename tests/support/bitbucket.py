"""A double of the API of Bitbucket Server, version 1.0, over real bare repositories."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator

import pytest
from tests.support.git_host import Asked, HostDouble, HostRepository, Told, parts_of, running, token_of


class BitbucketDouble(HostDouble):
    """The calls that read a repository. Names are `KEY/slug`."""

    kind = "bitbucket"

    def page(self, name: str) -> str:
        """Returns the address of a repository's page."""
        project, _, repo = name.partition("/")
        return f"{self.site()}/projects/{project}/repos/{repo}"

    def answer(self, asked: Asked) -> Told:
        """Finds the repository, and looks whether the token may see it."""
        path, query = parts_of(asked.path)
        match = re.fullmatch(r"/rest/api/1\.0/projects/([^/]+)/repos/([^/]+)(?:/(.*))?", path)
        if match is None:
            return _error(404, "null for uri", "NotFound")
        token = token_of(asked.headers)
        if token is not None and token not in self.tokens:
            return _error(401, "Authentication failed. Please check your credentials and try again.", "Incorrect")
        name, rest = f"{match[1]}/{match[2]}", urllib.parse.unquote(match[3] or "")
        found = self.repositories.get(name)
        if found is None:
            return _error(404, f"Repository {name} does not exist.", "NoSuchRepository")
        if not self.sees(token, found):
            return _error(401, "You are not permitted to access this resource", "Authorisation")
        return self._repository(found, rest, query)

    def _repository(self, found: HostRepository, rest: str, query: dict[str, str]) -> Told:
        kind, _, name = rest.partition("/")
        if not rest:
            project, _, slug = found.name.partition("/")
            return Told.of(200, {"slug": slug, "project": {"key": project}, "archived": found.archived})
        if rest == "branches/default":  # an older server: it has no `default-branch`
            if not found.commit_of("refs/heads/main"):
                return _error(404, "refs/heads/main does not exist", "NoDefaultBranch")
            return Told.of(200, {"id": "refs/heads/main", "displayId": "main", "type": "BRANCH"})
        if kind == "commits":
            commit = found.commit_of(name or query["until"])
            if not commit:
                return _error(404, f"Commit '{name or query['until']}' does not exist.", "NoSuchCommit")
            about = {"id": commit, "displayId": commit[:11]}
            return Told.of(200, about if name else {"values": [about], "size": 1, "isLastPage": True})
        if kind == "archive":
            commit = found.commit_of(query["at"])
            assert query["format"] == "tar.gz"
            data = self.packed(found, commit, "", *([query["path"]] if "path" in query else []))
            return Told(200, data, {"content-type": "application/octet-stream"})
        return _error(404, "null for uri", "NotFound")


def _error(status: int, message: str, name: str) -> Told:
    named = f"com.atlassian.bitbucket.{name}Exception"
    return Told.of(status, {"errors": [{"context": None, "message": message, "exceptionName": named}]})


@pytest.fixture(scope="session")
def bitbucket() -> Iterator[BitbucketDouble]:
    """A double of a Bitbucket server."""
    with running(BitbucketDouble) as made:
        assert isinstance(made, BitbucketDouble)
        yield made
