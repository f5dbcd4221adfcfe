"""A double of GitHub's API over real bare repositories, held to GitHub's published OpenAPI at every answer.

What GitHub answered once, recorded, is the template of what has many fields. Both come from npm by
`tools/install.sh system`.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from openapi_schema_validator import OAS30Validator
from tests.support.git_host import Asked, HostDouble, HostRepository, Told, parts_of, running, token_of

PACKAGES = Path(__file__).parents[2] / ".cache" / "octokit"
_DOCS = "https://docs.github.com/rest"
_REPO = "/repos/{owner}/{repo}"
_GENERAL = {"401": "basic-error", "403": "basic-error", "429": "basic-error"}
"""Answers that any operation may give, which the documents describe once for all."""


@functools.cache
def openapi() -> dict[str, Any]:
    """Returns GitHub's description of its API."""
    return cast("dict[str, Any]", json.loads(_package("openapi/generated/api.github.com.json").read_text()))


@functools.cache
def recorded(scenario: str) -> list[dict[str, Any]]:
    """Returns what GitHub once answered, request after request."""
    place = _package(f"fixtures/scenarios/api.github.com/{scenario}/normalized-fixture.json")
    return cast("list[dict[str, Any]]", json.loads(place.read_text()))


def _package(path: str) -> Path:
    place = PACKAGES / path
    if not place.exists():
        pytest.fail(f"{place} is not there: run tools/install.sh system", pytrace=False)
    return place


def violation(template: str, told: Told) -> str:
    """Returns what is wrong with an answer by GitHub's documents; nothing when it is right."""
    document = openapi()
    operation = document["paths"][template]["get"]
    status = str(told.status)
    if status in _GENERAL:
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{_GENERAL[status]}"}
    elif status not in operation["responses"]:
        return f"{template} never answers {status}"
    else:
        response = operation["responses"][status]
        if "$ref" in response:
            response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        content = response.get("content")
        if content is None:
            return "" if not told.body else f"{template} answers {status} without a body"
        kind = told.headers["content-type"].partition(";")[0]
        if kind not in content:
            return "" if f"`{kind}`" in operation["description"] else f"{template} never answers {kind}"
        schema = content[kind]["schema"]
    check = OAS30Validator({**schema, "components": document["components"]})
    value = json.loads(told.body) if "json" in told.headers["content-type"] else told.body.decode()
    return "; ".join(
        f"{template} {status}: {error.json_path}: {error.message[:200]}" for error in check.iter_errors(value)
    )


class GitHubDouble(HostDouble):
    """The calls that read a repository."""

    kind = "github"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._keys: dict[str, str] = {}
        self.elsewhere = ""
        """Where archives are, instead of the double's own file server."""

    @property
    def base_url(self) -> str:
        """Address of the API, as an Enterprise server has it."""
        return f"http://{self.address()}/api/v3"

    def answer(self, asked: Asked) -> Told:
        """Finds the repository, and looks whether the token may see it."""
        path, query = parts_of(asked.path)
        path = path.removeprefix("/api/v3")
        token = token_of(asked.headers)
        told = self._answer(path, query, token, asked)
        left = "4999" if token else "59"
        told.headers = {
            "x-ratelimit-limit": "5000" if token else "60", "x-ratelimit-remaining": left, "x-ratelimit-used": "1",
            "x-ratelimit-reset": "1507651200", "x-ratelimit-resource": "core",
            "x-github-media-type": "github.v3; format=json", "x-github-request-id": "0000:00000:0000000",
            "x-github-api-version-selected": asked.headers.get("x-github-api-version", "2022-11-28"), **told.headers,
        }  # fmt: skip
        if told.template and (wrong := violation(told.template, told)):
            self.violations.append(f"{asked.path}: {wrong}")
        return told

    def _answer(self, path: str, query: dict[str, str], token: str | None, asked: Asked) -> Told:
        if token is not None and token not in self.tokens:
            return _error(401, "Bad credentials", _REPO)
        numbered = re.fullmatch(r"/repositories/(\d+)(/.*)?", path)
        named = re.fullmatch(r"/repos/([^/]+/[^/]+)(/.*)?", path)
        found: HostRepository | None = None
        rest = ""
        if numbered:
            found = next((one for one in self.repositories.values() if str(one.number) == numbered[1]), None)
            rest = numbered[2] or ""
        elif named:
            found, rest = self.repositories.get(named[1]), named[2] or ""
            moved = next((one for one in self.repositories.values() if named[1] in one.former), None)
            if found is None and moved is not None and self.sees(token, moved):
                place = f"{self.base_url}/repositories/{moved.number}{rest}"
                about = {"message": "Moved Permanently", "url": place, "documentation_url": f"{_DOCS}/guides"}
                told = Told.of(301, about, location=place)
                told.template = "" if rest else _REPO
                return told
        if found is None or not self.sees(token, found):
            return _error(404, "Not Found", _REPO)
        routes: list[tuple[str, str, Callable[..., Told]]] = [
            (_REPO, r"", self._repository),
            (f"{_REPO}/commits/{{ref}}", r"/commits/(.+)", self._commit_name),
            (f"{_REPO}/git/commits/{{commit_sha}}", r"/git/commits/([0-9a-f]+)", self._commit),
            (f"{_REPO}/git/trees/{{tree_sha}}", r"/git/trees/([0-9a-f]+)", self._tree),
            (f"{_REPO}/git/blobs/{{file_sha}}", r"/git/blobs/([0-9a-f]+)", self._blob),
            (f"{_REPO}/tarball/{{ref}}", r"/tarball/(.+)", self._tarball),
        ]
        for template, pattern, route in routes:
            if match := re.fullmatch(pattern, rest):
                told = route(found, *map(urllib.parse.unquote, match.groups()), query=query, asked=asked)
                told.template = template
                return told
        return _error(404, "Not Found", "")

    def _repository(self, found: HostRepository, query: dict[str, str], asked: Asked) -> Told:
        old = "octokit-fixture-org/hello-world"
        (shape,) = recorded("get-repository")
        told = json.loads(json.dumps(shape["response"]).replace(old, found.name))
        told |= {
            "id": found.number, "name": found.name.partition("/")[2], "private": found.private,
            "default_branch": "main", "visibility": "private" if found.private else "public",
            "archived": found.archived, "has_discussions": False,
        }  # fmt: skip
        if found.private:
            told["temp_clone_token"] = "TEMP-CLONE-TOKEN"
        return Told.of(200, told)

    def _commit_name(self, found: HostRepository, ref: str, query: dict[str, str], asked: Asked) -> Told:
        assert asked.headers["accept"] == "application/vnd.github.sha", "the other forms are not doubled"
        if not found.ask("rev-parse", "--verify", "-q", "HEAD"):
            return _error(409, "Git Repository is empty.", "")
        commit = found.commit_of(f"refs/{ref}" if ref.startswith(("heads/", "tags/")) else ref)
        if not commit:
            return _error(422, f"No commit found for SHA: {ref}", "")
        return Told(200, commit.encode(), {"content-type": "application/vnd.github.sha; charset=utf-8"})

    def _commit(self, found: HostRepository, name: str, query: dict[str, str], asked: Asked) -> Told:
        if len(name) != 40 or found.ask("cat-file", "-t", name) != "commit":
            return _error(404, "Not Found", "")
        tree, parents, who, mail, date, text = found.ask("log", "-1", "--format=%T%n%P%n%an%n%ae%n%aI%n%B", name).split(
            "\n", 5
        )
        url = f"{self.base_url}/repos/{found.name}/git"
        person = {"name": who, "email": mail, "date": date}
        told = {
            "sha": name, "node_id": "C_1", "url": f"{url}/commits/{name}", "html_url": f"{found.url}/commit/{name}",
            "author": person, "committer": person, "message": text, "tree": {"sha": tree, "url": f"{url}/trees/{tree}"},
            "parents": [{"sha": one, "url": f"{url}/commits/{one}", "html_url": f"{found.url}/commit/{one}"}
                        for one in parents.split()],
            "verification": {"verified": False, "reason": "unsigned", "signature": None, "payload": None,
                             "verified_at": None},
        }  # fmt: skip
        return Told.of(200, told)

    def _tree(self, found: HostRepository, name: str, query: dict[str, str], asked: Asked) -> Told:
        if found.ask("cat-file", "-t", name) != "tree":
            return _error(404, "Not Found", "")
        url = f"{self.base_url}/repos/{found.name}/git"
        entries = []
        for mode, kind, oid, size, path in found.tree(name, *(["-r", "-t"] if query.get("recursive") else [])):
            entry: dict[str, Any] = {"path": path, "mode": mode, "type": kind, "sha": oid}
            if kind != "commit":
                entry["url"] = f"{url}/{kind}s/{oid}"
            if kind == "blob":
                entry["size"] = int(size)
            entries.append(entry)
        return Told.of(200, {"sha": name, "url": f"{url}/trees/{name}", "tree": entries, "truncated": False})

    def _blob(self, found: HostRepository, name: str, query: dict[str, str], asked: Asked) -> Told:
        if found.ask("cat-file", "-t", name) != "blob":
            return _error(404, "Not Found", "")
        data = found.read("cat-file", "blob", name)
        told = {
            "sha": name, "node_id": "B_1", "size": len(data), "encoding": "base64",
            "url": f"{self.base_url}/repos/{found.name}/git/blobs/{name}",
            "content": base64.encodebytes(data).decode(),
        }  # fmt: skip
        return Told.of(200, told)

    def _tarball(self, found: HostRepository, ref: str, query: dict[str, str], asked: Asked) -> Told:
        place = f"{self.elsewhere or 'http://' + self.address('files')}/{found.name}/legacy.tar.gz/{ref}"
        if found.private:
            key = f"KEY{len(self._keys):06d}"
            self._keys[key] = found.name
            place += f"?token={key}"
        return Told(302, b"", {"content-type": "text/html;charset=utf-8", "location": place})

    def file(self, asked: Asked) -> Told:
        """Sends archives, as the host `codeload` does: it knows no tokens of the API, only keys of its own."""
        path, query = parts_of(asked.path)
        name, mark, commit = path.strip("/").partition("/legacy.tar.gz/")
        found = self.repositories.get(name)
        if not mark or found is None or not found.commit_of(commit):
            return Told(404, b"404: Not Found", {"content-type": "text/plain; charset=utf-8"})
        if found.private and self._keys.get(query.get("token", "")) != name:
            return Told(404, b"404: Not Found", {"content-type": "text/plain; charset=utf-8"})
        top = f"{name.replace('/', '-')}-{commit[:7]}"
        headers = {
            "content-type": "application/x-gzip", "content-disposition": f"attachment; filename={top}.tar.gz",
            "etag": f'"{commit}"', "x-github-request-id": "0000:00000:0000000",
        }  # fmt: skip
        return Told(200, self.packed(found, commit, top), headers)


def _error(status: int, message: str, template: str) -> Told:
    told = Told.of(status, {"message": message, "documentation_url": f"{_DOCS}", "status": str(status)})
    told.template = template
    return told


@pytest.fixture(scope="session")
def github() -> Iterator[GitHubDouble]:
    """A double of GitHub."""
    with running(GitHubDouble) as made:
        assert isinstance(made, GitHubDouble)
        yield made
