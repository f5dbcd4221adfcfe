"""A small registry for what Debian's cannot be made to do: a token server, redirected downloads and uploads, faults.

It speaks as much of the distribution API as one bundle needs. Whatever a credential reaches that it is not for is
kept in `seen_elsewhere`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class TokenRegistry:
    """A registry at `127.0.0.1`, its token server beside it, and its store of blobs at `localhost`: another host.

    Attributes:
        faults: What goes wrong at the next requests of the registry, first to last: `503`, `429`, `403`, `cut` (the
            connection ends), `short` (a body ends too early), `other digest`, `upload lost`, `link empty` (the answer
            to a manifest while another author's blob is being linked).
    """

    user, password, identity_token = "robot", "r0b0t-pw", "identity-74"

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.scopes: set[str] = set()
        self.seen_elsewhere: list[str] = []
        self.faults: list[str] = []
        self.redirected = self.refreshed = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": self}))
        self.port = int(self._server.server_address[1])
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def expire_tokens(self) -> None:
        """Forgets the tokens that were given."""
        self.tokens.clear()

    def fault(self, *kinds: str) -> str:
        """Takes the next fault when it is one of these."""
        return self.faults.pop(0) if self.faults and self.faults[0] in kinds else ""

    def token(self, scope: str) -> bytes:
        """Makes a token."""
        made = uuid.uuid4().hex
        self.tokens.add(f"Bearer {made}")
        self.scopes.add(scope)
        return json.dumps({"token": made}).encode()

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: TokenRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:-1] if body and self.registry.fault("short") else body)

    def _serve(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        authorization = self.headers.get("Authorization", "")
        if (self.headers.get("Host") or "").startswith("localhost"):
            if authorization:
                self.registry.seen_elsewhere.append(f"{self.command} {url.path}")
            self._store(url.path, query, body)
        elif url.path == "/token":
            self._token(query, body, authorization)
        elif authorization not in self.registry.tokens:
            realm = f'Bearer realm="http://{self.registry.address}/token",service="test.registry",scope="ignored"'
            if authorization.startswith("Basic"):
                self.registry.seen_elsewhere.append("the password at the registry itself")
            self._answer(401, WWW_Authenticate=realm)
        else:
            self._registry(url.path, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _serve  # noqa: N815 (http.server's names)

    def _token(self, query: dict[str, str], body: bytes, authorization: str) -> None:
        form = {name: values[0] for name, values in urllib.parse.parse_qs(body.decode()).items()}
        if self.command == "POST" and form.get("refresh_token") == self.registry.identity_token:
            self.registry.refreshed += 1
            self._answer(200, self.registry.token(form["scope"]))
            return
        wanted = "Basic " + base64.b64encode(f"{self.registry.user}:{self.registry.password}".encode()).decode()
        if authorization != wanted or query.get("service") != "test.registry":
            self._answer(401)
            return
        self._answer(200, self.registry.token(query["scope"]))

    def _registry(self, path: str, body: bytes) -> None:
        if fault := self.registry.fault("503", "429", "403", "cut"):
            if fault == "cut":
                self.connection.close()
            else:
                self._answer(int(fault), **({"Retry_After": "0"} if fault == "429" else {}))  # type: ignore[arg-type]
            return
        kind, _, name = path.removeprefix("/v2/team/flows/").partition("/")
        if kind == "blobs" and name == "uploads/":
            upload = uuid.uuid4().hex
            self.registry.uploads[upload] = b""
            self._answer(202, Location=f"http://localhost:{self.registry.port}/upload?id={upload}&key=signed")
        elif kind == "blobs" and name in self.registry.blobs:
            if self.command == "HEAD":
                self._answer(200)
                return
            self.registry.redirected += 1
            self._answer(307, Location=f"http://localhost:{self.registry.port}/blob/{name}?key=signed")
        elif kind == "manifests" and self.command == "PUT" and self.registry.fault("link empty"):
            self._answer(400, json.dumps({"errors": [{"code": "DIGEST_INVALID", "message": "did not match"}]}).encode())
        elif kind == "manifests" and self.command == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.registry.manifests[name] = self.registry.manifests[digest] = body
            self._answer(201, Docker_Content_Digest=digest)
        elif kind == "manifests" and name in self.registry.manifests:
            data = self.registry.manifests[name]
            self._answer(200, data + b" " if self.registry.fault("other digest") else data)
        else:
            self._answer(404, json.dumps({"errors": [{"code": "BLOB_UNKNOWN", "message": "none"}]}).encode())

    def _store(self, path: str, query: dict[str, str], body: bytes) -> None:
        if self.command == "PUT":
            if self.registry.fault("upload lost"):
                self._answer(404)
                return
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            assert digest == query["digest"]
            self.registry.blobs[digest] = body
            self._answer(201)
        else:
            self._answer(200, self.registry.blobs[path.removeprefix("/blob/")])


@contextmanager
def running_token_registry() -> Iterator[TokenRegistry]:
    """Runs one."""
    registry = TokenRegistry()
    try:
        yield registry
    finally:
        registry.stop()


@pytest.fixture
def token_registry() -> Iterator[Any]:
    """A registry with a token server."""
    with running_token_registry() as running:
        yield running
