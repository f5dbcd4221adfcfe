"""Commits of a repository at GitHub, or at a GitHub Enterprise server, read through its API."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.compat import accept_common
from heliograph.storage.git_client import TreeEntry
from heliograph.storage.hosted import Account, Hosted, HostedPin, check_site
from heliograph.storage.http_client import Answer
from heliograph.storage.pin import Pin, is_commit
from heliograph.storage.web import Web

__all__ = ["GitHub"]

_PUBLIC = "https://github.com"
_JSON = "application/vnd.github+json"
_SHA = "application/vnd.github.sha"


class GitHub(Hosted):
    """A flow in a repository at GitHub. Nothing is uploaded: agents fetch the commit that was meant at registration.

    Args:
        repo: `owner/name`.
        path: The flow's file in the repository; found from the flow's own file when not given.
        ref: Branch, tag or whole name of a commit; by default the repository's default branch.
        access_token_secret: Name of the secret that is the token at registration; agents have their own, see the
            setting `storage.tokens`.
        base_url: Address of the API of an Enterprise server, `https://github.example.org/api/v3`.
        subdir: Folder of the repository that goes into the bundle; all of it when not given.
        pin: `commit`: runs use the commit of registration. `branch`: each run uses the newest one of the branch.
        launch: `agent` when agents' own files give the values of variables; see `Repository`.
        **prefect: What Prefect 1 had besides; see `Git`.
    """

    kind: ClassVar[str] = "github"

    def __init__(
        self,
        repo: str,
        path: str | None = None,
        ref: str | None = None,
        access_token_secret: str | None = None,
        base_url: str | None = None,
        *,
        subdir: str = "",
        pin: HostedPin = "commit",
        launch: Literal["", "agent"] = "",
        **prefect: Any,
    ) -> None:
        accept_common("GitHub", prefect, scripts_only=True)
        if repo.strip("/").count("/") != 1 or ":" in repo:
            raise InvalidArgumentError(
                f"{repo!r} is no repository of GitHub", hint="Give repo='owner/name', and the server by base_url=."
            )
        site = _site_of(base_url) if base_url else _PUBLIC
        super().__init__(site, repo, path, ref, secret=access_token_secret, subdir=subdir, pin=pin, launch=launch)

    @classmethod
    def at(cls, location: str, host: str = "") -> GitHub:
        """Returns the storage that a location names, to fetch from. Any host may."""
        del host
        site, _, rest = Pin.parse(location).url.rstrip("/").rpartition("/")
        site, _, owner = site.rpartition("/")
        return cls.reading(location, cls(f"{owner}/{rest}", base_url=_api_of(check_site(site))))

    def _connect(self, token: str) -> Web:
        return _GitHubWeb(
            _api_of(self._site),
            urllib.parse.urlsplit(self._site).netloc,
            headers={"Accept": _JSON, "X-GitHub-Api-Version": "2022-11-28"},
            credential={"Authorization": f"Bearer {token}"} if token else None,
            secret=token,
        )

    @property
    def _base(self) -> str:
        return f"repos/{self._name}"

    def _account(self) -> Account:
        told = self._web.value(self._base, also=(404,))
        if told is None:
            raise self._not_there()
        return Account(str(told["full_name"]), str(told.get("default_branch") or ""), bool(told.get("archived")))

    def _not_there(self) -> StorageError:
        web = self._web
        if web.has_login:
            way = "Correct the name; or give the token read access to it (Contents: read-only), and sign it for SSO."
            return StorageError(f"{self.url} is not there, or the token may not see it", hint=way)
        return StorageError(
            f"{self.url} is not there, or is private", hint=f"Correct the name; for a private one {web.binding()}"
        )

    def _commit_of(self, ref: str) -> str:
        found = {}
        for kind in ("heads", "tags"):
            place = f"{self._base}/commits/{kind}/{urllib.parse.quote(ref)}"
            answer = self._web.get(place, accept=_SHA, also=(404, 409, 422))
            if answer.status == 200:
                found[kind] = answer.body.decode("ascii", "replace").strip()
        if len(set(found.values())) == 2:
            raise StorageError(f"{self.url} has a branch and a tag with the name {ref!r}", hint="Give the commit.")
        commit = next(iter(found.values()), "")
        if commit and not is_commit(commit):
            raise StorageError(f"{self._web.host} answers with no name of a commit")
        return commit

    def _entries(self, pin: Pin) -> Sequence[TreeEntry]:
        told = self._web.value(f"{self._base}/git/commits/{pin.commit}", also=(404, 409, 422))
        if told is None:
            self._account()  # says so when it is the repository that is not there
            raise self._gone(pin)
        tree = str(told["tree"]["sha"])
        for part in pin.subdir.split("/") if pin.subdir else ():
            tree = next(
                (
                    str(entry["sha"])
                    for entry in self._tree(tree)["tree"]
                    if entry["path"] == part and entry["type"] == "tree"
                ),
                "",
            )
            if not tree:
                raise StorageError(f"commit {pin.commit[:12]} of {pin.url} has no folder {pin.subdir!r}")
        listing = self._tree(f"{tree}?recursive=1")
        if listing.get("truncated"):
            raise StorageError(
                f"commit {pin.commit[:12]} of {pin.url} has more files than {self._web.host} lists",
                hint="Give a folder of it: subdir=…, or use Git storage.",
            )
        return [
            TreeEntry(str(entry["mode"]), str(entry["sha"]), int(entry.get("size") or 0), str(entry["path"]))
            for entry in listing["tree"]
            if entry["type"] != "tree"
        ]

    def _tree(self, name: str) -> dict[str, Any]:
        told = self._web.value(f"{self._base}/git/trees/{name}")
        if not isinstance(told, dict) or not isinstance(told.get("tree"), list):
            raise StorageError(f"{self._web.host} answers with no list of files")
        return told

    def _archive(self, pin: Pin) -> tuple[str, bool]:
        return f"{self._base}/tarball/{pin.commit}", True

    def _blob(self, oid: str) -> bytes:
        told = self._web.value(f"{self._base}/git/blobs/{oid}")
        try:
            return base64.b64decode(str(told["content"]))
        except (binascii.Error, KeyError, TypeError) as error:
            raise StorageError(f"{self._web.host} answers with no file") from error


class _GitHubWeb(Web):
    """GitHub's own reasons for a no."""

    def hint(self, answer: Answer) -> str:
        """Returns what to do about an answer."""
        if answer.status == 403 and "x-github-sso" in answer.headers:
            return "The organisation wants single sign-on: authorise the token for it, in its settings at GitHub."
        if answer.status == 451:
            return "GitHub took the repository down."
        return super().hint(answer)


def _site_of(base_url: str) -> str:
    """Returns where the pages of an API's server are."""
    api = check_site(base_url)
    parts = urllib.parse.urlsplit(api)
    if parts.path.endswith("/api/v3"):
        return api.removesuffix("/api/v3")
    host = parts.netloc.removeprefix("api.")
    if not parts.path and host != parts.netloc and (host == "github.com" or host.endswith(".ghe.com")):
        return f"https://{host}"
    raise InvalidArgumentError(
        f"{base_url!r} is no address of GitHub's API", hint="Give https://HOST/api/v3, as your server's pages say."
    )


def _api_of(site: str) -> str:
    host = urllib.parse.urlsplit(site).netloc.lower()
    if site == f"https://{host}" and (host == "github.com" or host.endswith(".ghe.com")):
        return f"https://api.{host}"
    return f"{site}/api/v3"
