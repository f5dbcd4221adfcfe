"""What HTTP storage does besides the suite of all kinds: servers of other habits, and Prefect 1's Webhook."""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.support.dav import PASSWORD, USER, DavServer, dav_server
from tests.unit.storage.conftest import project

from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage import HTTP, BundleRef, Webhook, from_reference

__all__ = ["dav_server", "project"]

pytestmark = pytest.mark.xdist_group("storage-http")

Project = Callable[..., tuple[Path, Any]]


def _put(storage: HTTP, flow: Any) -> BundleRef:
    return storage.put_bundle(storage.make_bundle(flow))


class _FoldersFirst(BaseHTTPRequestHandler):
    """WebDAV as Apache has it: a file is taken when its folder is there."""

    files: dict[str, bytes]
    folders: set[str]

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = 404, b""
        if self.command == "MKCOL":
            status = 201 if self.path.rstrip("/").rpartition("/")[0] in self.folders else 409
            self.folders.add(self.path.rstrip("/"))
        elif self.command == "PUT":
            status = 201 if self.path.rpartition("/")[0] in self.folders else 409
            if status == 201:
                self.files[self.path] = body
        elif self.path in self.files:
            status, answer = 200, self.files[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_MKCOL = _serve  # noqa: N815 (http.server's names)


def test_folders_are_made_where_a_server_wants_them_first(project: Project, tmp_path: Path) -> None:
    handler = type("Handler", (_FoldersFirst,), {"files": {}, "folders": {"/x"}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        _, flow = project()
        ref = _put(HTTP(f"http://127.0.0.1:{server.server_address[1]}/x"), flow)
        assert from_reference(ref.storage, ref.location).fetch(ref, tmp_path / "cache").is_dir()
        server.shutdown()


def test_bundles_that_were_put_there_otherwise_are_registered_where_nothing_is_taken(
    dav_server: DavServer, project: Project, tmp_path: Path
) -> None:
    """The folder of `/open/x` again, where the server only lets read: all is there, so nothing is sent."""
    name = uuid.uuid4().hex[:8]
    _, flow = project()
    ref = _put(HTTP(f"{dav_server.url}/open/{name}"), flow)
    again = _put(HTTP(f"{dav_server.url}/readers/{name}"), flow)
    assert (again.digest, again.launch_digest) == (ref.digest, ref.launch_digest)
    from_reference(again.storage, again.location).fetch(again, tmp_path / "cache")


def test_a_redirection_to_another_host_gets_no_login(
    dav_server: DavServer, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOGRAPH__SECRETS__LOGIN", f"{USER}:{PASSWORD}")
    _, flow = project()
    ref = _put(HTTP(f"{dav_server.url}/moved", secret="LOGIN"), flow)
    from_reference(ref.storage, ref.location).fetch(ref, tmp_path / "cache")
    log = (dav_server.folder / "access.log").read_text().splitlines()
    # nginx names the user that a request claims to be, whether it asks for one or not.
    assert [line for line in log if " /moved/" in line and f"- {USER} [" in line]
    assert len([line for line in log if " /open/moved/" in line]) >= 6
    assert not [line for line in log if " /open/moved/" in line and f"- {USER} [" in line]


@pytest.mark.parametrize(
    ("secret", "header"),
    [
        ("tok-74", {"Authorization": "Bearer tok-74"}),
        ("me:pw", {"Authorization": "Basic " + base64.b64encode(b"me:pw").decode()}),
        ("PRIVATE-TOKEN: tok-74", {"PRIVATE-TOKEN": "tok-74"}),
    ],
)
def test_a_secret_is_a_token_a_login_or_a_header(
    secret: str, header: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIOGRAPH__SECRETS__IT", secret)
    storage = HTTP("https://files.example.org/x", secret="IT")
    assert storage._login() == header
    assert secret not in repr(storage) + storage.location


@pytest.mark.parametrize(
    "url",
    ["https://u:p@h/x", "https://h/x?sig=1", "https://h/x#y", "ftp://h/x", "h/x", "https://", "https:///x"],
)
def test_an_address_with_more_than_a_place_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        HTTP(url)
    assert "u:p" not in str(caught.value)
    assert "sig=1" not in str(caught.value)
    with pytest.raises(StorageError):
        from_reference("http", url)


def test_a_webhook_of_prefect_1_stores_with_secrets_and_tells_none(
    dav_server: DavServer, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUNDLES", dav_server.url)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    monkeypatch.setenv("HELIOGRAPH__SECRETS__DAV_BASIC", login)
    monkeypatch.setenv("HELIOGRAPH__SECRETS__DAV_LOGIN", f"{USER}:{PASSWORD}")
    _, flow = project()
    name = uuid.uuid4().hex[:8]
    storage = Webhook(
        build_request_kwargs={"url": f"${{BUNDLES}}/private/{name}", "headers": {"Authorization": "Basic ${KEY}"}},
        build_request_http_method="PUT",
        get_flow_request_kwargs={"url": f"${{BUNDLES}}/private/{name}"},
        get_flow_request_http_method="GET",
        build_secret_config={"KEY": {"value": "DAV_BASIC", "type": "secret"}},
        stored_as_script=True,
    )
    ref = _put(storage, flow)
    assert ref.location == f"{dav_server.url}/private/{name}"
    assert login not in str(ref)
    with pytest.raises(StorageError, match="answers 401"):
        from_reference(ref.storage, ref.location).fetch(ref, tmp_path / "cache")
    HTTP(ref.location, secret="DAV_LOGIN").fetch(ref, tmp_path / "cache")


def test_webhooks_that_cannot_be_meant_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    place = {"url": "https://h/x"}
    with pytest.raises(InvalidArgumentError, match="GET"):
        Webhook(place, "PUT", place, "POST")
    with pytest.raises(InvalidArgumentError, match="params"):
        Webhook({**place, "params": {}}, "PUT", place)
    with pytest.raises(InvalidArgumentError, match="same address"):
        Webhook(place, "PUT", {"url": "https://h/y"})
    with pytest.raises(InvalidArgumentError, match="cannot hold the secret"):
        Webhook({"url": "https://h/${K}"}, "PUT", {"url": "https://h/${K}"},
                get_flow_secret_config={"K": {"value": "S", "type": "secret"}})  # fmt: skip
    with pytest.raises(StorageError, match="NOT_SET"):
        Webhook({"url": "https://h/${NOT_SET}"}, "PUT", {"url": "https://h/${NOT_SET}"})
