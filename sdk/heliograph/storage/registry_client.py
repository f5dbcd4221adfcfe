"""One repository of an OCI registry, over the distribution API: blobs and manifests, named by their digests.

Logging in follows what the registry asks for: nothing, Basic, or a token of its token server. A login goes to the
registry and to that server only; the places that a registry redirects downloads to get none.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import urllib.parse
from collections.abc import Callable
from typing import IO, Any, BinaryIO, cast

from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage.base import ObjectMissingError
from heliograph.storage.http_client import Answer, HTTPError, Session, host_of, may_be_plain
from heliograph.storage.registry_login import DOCKER_HUB, Login, docker_login_for, login_for

__all__ = ["MANIFEST_TYPE", "Repository", "digest_of", "parse_repository"]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_DOCKER = "application/vnd.docker.distribution.manifest"
IMAGE_TYPES = f"{MANIFEST_TYPE}, application/vnd.oci.image.index.v1+json, {_DOCKER}.v2+json, {_DOCKER}.list.v2+json"
"""What an image's name may stand for."""
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 32 * 1024 * 1024
"""What is larger is uploaded in pieces of this size: proxies before registries limit single requests."""

_PUTS = 3
_MAX_MEMORY_BYTES = 8 * 1024 * 1024
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_PARAMETER = re.compile(r'([a-zA-Z]+)="([^"]*)"')


def digest_of(data: bytes) -> str:
    """Returns `sha256:` and the digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_repository(text: str) -> tuple[str, str]:
    """Returns host and name of `host[:port]/name`.

    Raises:
        StorageError: It is no such text.
    """
    host, _, name = text.partition("/")
    if not _HOST.fullmatch(host) or not _NAME.fullmatch(name) or len(name) > 255:
        raise StorageError(
            f"{text!r} is no repository of a registry",
            hint="registry.example.org/team/flows is expected: host, perhaps a port, and a name in small letters.",
        )
    return host, name


class Repository:
    """A repository, for one storing or fetching.

    Args:
        host: Host and port, as in images' names.
        name: Name in the registry.
        write: True to store.
        secret: Name of the secret that is the login; by default what this machine has.
        plain: True to speak to the host without encryption.
        for_docker: True to log in as an engine that pulls: with the logins of Docker, and no bound secret.

    Attributes:
        has_login: Whether there was a login when the registry asked for one.
    """

    def __init__(
        self, host: str, name: str, *, write: bool = False, secret: str = "", plain: bool = False,
        for_docker: bool = False,
    ) -> None:  # fmt: skip
        self.place = f"{host}/{name}"
        self._host, self._name, self._secret = host, name, secret
        server = "registry-1.docker.io" if host == DOCKER_HUB else host
        name = f"library/{name}" if host == DOCKER_HUB and "/" not in name else name
        scheme = "http" if plain or may_be_plain(f"http://{server}") else "https"
        self._base = f"{scheme}://{server}/v2/{name}"
        self._scope = f"repository:{name}:{'pull,push' if write else 'pull'}"
        self._session = Session(plain=(server,) if plain else ())
        self._authorization = ""
        self._for_docker = for_docker
        self.has_login = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def manifest(self, reference: str) -> dict[str, Any]:
        """Returns a manifest by its digest, whose bytes must have it, or by a tag.

        Raises:
            ObjectMissingError: It is not there.
            BundleChangedError: It has another digest.
            StorageError: It cannot be read, or is none.
        """
        return self.manifest_with_digest(reference)[0]

    def manifest_with_digest(self, reference: str) -> tuple[dict[str, Any], str]:
        """Returns a manifest, and the digest of its bytes."""
        answer = self._send("GET", f"manifests/{reference}", headers={"Accept": MANIFEST_TYPE}, expect=(200, 404))
        if answer.status == 404:
            raise self._missing(reference)
        digest = digest_of(answer.body)
        if reference.startswith("sha256:") and digest != reference:
            raise BundleChangedError(
                f"{self.place} has {digest} where {reference} was registered", hint="Register the flow again."
            )
        try:
            found = json.loads(answer.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise StorageError(f"{self.place}: what is at {reference} is no manifest")
        return found, digest

    def image_digest(self, reference: str) -> str:
        """Returns the digest of what an image's tag or digest stands for: a manifest, or an index of some.

        Raises:
            ObjectMissingError: It is not there.
            StorageError: It cannot be read.
        """
        answer = self._send("GET", f"manifests/{reference}", headers={"Accept": IMAGE_TYPES}, expect=(200, 404))
        if answer.status == 404:
            raise self._missing(reference)
        digest = digest_of(answer.body)
        if reference.startswith("sha256:") and digest != reference:
            raise StorageError(f"{self.place} answers with {digest} when asked for {reference}")
        return digest

    def blob(self, digest: str, limit: int) -> bytes:
        """Returns a blob.

        Raises:
            ObjectMissingError: It is not there.
            BundleChangedError: Its bytes are others.
            StorageError: It cannot be read, or is larger than the limit.
        """
        answer = self._send("GET", f"blobs/{digest}", expect=(200, 404), limit=limit)
        if answer.status == 404:
            raise self._missing(digest)
        if digest_of(answer.body) != digest:
            raise self._changed(digest)
        return answer.body

    def blob_into(self, digest: str, target: IO[bytes], limit: int) -> None:
        """Writes a blob into a stream that can be read again; see `blob`."""
        stream = cast("BinaryIO", target)
        answer = self._send("GET", f"blobs/{digest}", expect=(200, 404), into=stream, limit=limit)
        if answer.status == 404:
            raise self._missing(digest)
        stream.seek(0)
        hasher = hashlib.sha256()
        while piece := stream.read(1024 * 1024):
            hasher.update(piece)
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise self._changed(digest)
        stream.seek(0)

    def is_whole(self, digest: str, size: int) -> bool | None:
        """True when the blob is there and right, False when its bytes are others, None when it is not there.

        It is read: what a registry says of a blob may be of another day.
        """
        if self._send("HEAD", f"blobs/{digest}", expect=(200, 404)).status == 404:
            return None
        with tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES) as spool:
            try:
                self.blob_into(digest, cast("BinaryIO", spool), size)
            except ObjectMissingError:
                return None
            except HTTPError:
                raise
            except StorageError:  # other bytes, or more of them
                return False
        return True

    # --- writing -----------------------------------------------------------------------------------------------------

    def put_blob(self, data: bytes) -> str:
        """Uploads a blob unless it is there and right. Returns its digest.

        Raises:
            StorageError: The registry does not take it, or keeps a damaged copy that it has.
        """
        digest = digest_of(data)
        there = self.is_whole(digest, len(data))
        if there:
            return digest
        # An upload that broke is begun again: the registry may have forgotten it.
        self._until_taken(lambda: self._upload(data, digest), 0, 404, 416, 429, 500, 502, 503, 504)
        if there is False and not self.is_whole(digest, len(data)):
            raise self._stuck(digest)
        return digest

    def _until_taken(self, put: Callable[[], Answer], *passing: int) -> Answer:
        """Returns the answer to `put`, tried again after answers that may be others the next time."""
        for attempt in range(1, _PUTS + 1):
            try:
                return put()
            except HTTPError as error:
                if attempt == _PUTS or error.status not in passing:
                    raise
            self._session.pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    def put_manifest(self, tag: str, manifest: dict[str, Any]) -> str:
        """Stores a manifest under a tag, which keeps it from being swept away. Returns its digest.

        Raises:
            StorageError: The registry does not take it, stored something else, or keeps a damaged copy that it has.
        """
        data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        digest = digest_of(data)
        # Distribution's registry writes a blob's link in place: while another author stores the same blob it may read
        # an empty one, and says then that a digest is invalid (400) or a blob unknown (404).
        answer = self._until_taken(
            lambda: self._send(
                "PUT", f"manifests/{tag}", headers={"Content-Type": MANIFEST_TYPE}, body=data, expect=(200, 201)
            ), 400, 404,
        )  # fmt: skip
        kept = answer.headers.get("docker-content-digest", digest)
        if kept != digest:
            raise StorageError(
                f"{self.place} stored {kept[:80]} instead of {digest}", hint="It changes what it is given."
            )
        try:
            self.manifest(digest)
        except (ObjectMissingError, BundleChangedError):
            raise self._stuck(digest) from None
        return digest

    def _upload(self, data: bytes, digest: str) -> Answer:
        begun = self._send("POST", "blobs/uploads/", body=b"", expect=(202,))
        url = self._next(begun, self._base)
        rest = data
        if len(data) > PIECE_BYTES:
            least = begun.headers.get("oci-chunk-min-length", "")
            size = max(PIECE_BYTES, int(least) if least.isdigit() else 0)
            for start in range(0, len(data), size):
                piece = data[start : start + size]
                headers = {"Content-Range": f"{start}-{start + len(piece) - 1}"}
                url = self._next(self._send("PATCH", url, headers=headers, body=piece, expect=(202,), again=False), url)
            rest = b""
        mark = "&" if urllib.parse.urlsplit(url).query else "?"
        return self._send("PUT", f"{url}{mark}digest={digest}", body=rest, expect=(201,), again=False)

    def _next(self, answer: Answer, base: str) -> str:
        place = answer.headers.get("location", "")
        if not place:
            raise StorageError(f"{self.place}: the registry says nowhere to upload to")
        return urllib.parse.urljoin(base, place)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        expect: tuple[int, ...],
        into: BinaryIO | None = None,
        limit: int = MAX_MANIFEST_BYTES,
        again: bool = True,
    ) -> Answer:
        url = path if "://" in path else f"{self._base}/{path}"
        # An upload may be at another host; what is known of it then is in its address.
        at_home = host_of(url) == host_of(self._base)
        try:
            for first in (True, False):
                secret = {"Authorization": self._authorization} if self._authorization and at_home else {}
                answer = self._session.send(
                    method, url, headers=headers, secret=secret, body=body, expect=(*expect, 401), into=into,
                    limit=limit, again=again,
                )  # fmt: skip
                if answer.status != 401:
                    return answer
                if not first or not at_home:
                    break
                self._authorization = self._log_in(answer)
        except HTTPError as error:
            if error.status == 403:
                raise self._denied(error.status) from error
            raise
        raise self._denied(401)

    def _log_in(self, answer: Answer) -> str:
        """Returns the value of the header that the registry asks for."""
        asked = answer.headers.get("www-authenticate", "")
        scheme, _, rest = asked.partition(" ")
        login = docker_login_for(self._host) if self._for_docker else login_for(self._host, self._name, self._secret)
        self.has_login = login is not None
        if scheme.lower() == "basic":
            if login is None or not login.basic:
                raise self._denied(401)
            return login.basic
        if scheme.lower() == "bearer":
            return "Bearer " + self._token({key.lower(): value for key, value in _PARAMETER.findall(rest)}, login)
        raise StorageError(
            f"{self.place}: the registry asks for a login of kind {scheme[:20]!r}, which is not known here"
        )

    def _token(self, asked: dict[str, str], login: Login | None) -> str:
        realm = asked.get("realm", "")
        values = {"service": asked.get("service", ""), "scope": self._scope}
        try:
            if login is not None and login.identity_token:
                values |= {
                    "grant_type": "refresh_token", "refresh_token": login.identity_token, "client_id": "heliograph",
                }  # fmt: skip
                answer = self._session.send(
                    "POST", realm, body=urllib.parse.urlencode(values).encode(),
                    headers={"Content-Type": "application/x-www-form-urlencoded"},
                )  # fmt: skip
            else:
                secret = {"Authorization": login.basic} if login is not None and login.basic else {}
                mark = "&" if "?" in realm else "?"
                query = urllib.parse.urlencode({name: value for name, value in values.items() if value})
                answer = self._session.send("GET", f"{realm}{mark}{query}", secret=secret)
        except HTTPError as error:
            if error.status in (400, 401, 403):
                raise self._denied(error.status) from error
            raise
        try:
            told = json.loads(answer.body)
            token = told.get("token") or told["access_token"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StorageError(f"{self.place}: the token server {host_of(realm)} gives no token") from None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise StorageError(f"{self.place}: the token server {host_of(realm)} gives no token")
        return token

    def _denied(self, status: int) -> StorageError:
        what, right = ("store in", "push") if "push" in self._scope else ("read", "pull")
        error = HTTPError(
            f"{self.place}: the registry does not let this machine {what} it ({status})",
            hint=f"docker login {self._host} here, or bind a secret user:password: storage.tokens,"
            f" {self._host}=NAME_OF_SECRET. The login needs the right to {right}.",
        )
        error.status = status
        return error

    def _missing(self, what: str) -> ObjectMissingError:
        return ObjectMissingError(f"{self.place}: {what} is not there", hint="Register the flow again.")

    def _stuck(self, digest: str) -> StorageError:
        return StorageError(
            f"{self.place} keeps a damaged copy of {digest} and takes no other",
            hint="Have its operator delete that blob from the registry's storage, or register to another registry.",
        )

    def _changed(self, digest: str) -> BundleChangedError:
        return BundleChangedError(
            f"{self.place} gives other bytes for {digest} than were registered", hint="Register the flow again."
        )
