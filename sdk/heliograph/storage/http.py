"""Bundles on a server that takes PUT and GET: WebDAV, an artifact store, a web server's folder."""

from __future__ import annotations

import base64
import os
import re
import string
import tempfile
import urllib.parse
from collections.abc import Mapping
from typing import Any, BinaryIO, ClassVar, cast

from heliograph.config import config
from heliograph.exceptions import InvalidArgumentError, StorageError
from heliograph.storage.base import ObjectMissingError, Storage
from heliograph.storage.compat import accept_common
from heliograph.storage.credentials import bound_secret, secret_text
from heliograph.storage.http_client import Answer, HTTPError, Session, host_of

__all__ = ["HTTP", "Webhook"]

_MAX_MEMORY_BYTES = 8 * 1024 * 1024
_MAX_OVERHEAD_BYTES = 64 * 1024 * 1024  # of an archive over its files: up to 20,000 headers with long names
_HEADER = re.compile(r"([A-Za-z0-9-]{1,64}): (.+)")
_URL = re.compile(r"https?://[a-z0-9.\-\[\]:]+(?:/[A-Za-z0-9._~!$&'()*+,;=@%/-]*)?")


class HTTP(Storage):
    """Bundles below an address, stored with PUT and read with GET.

    Args:
        url: `https://files.example.org/bundles`, without user and query.
        secret: Name of the secret that is the login at registration: a token, `user:password`, or a whole header,
            `Name: value`. Agents have their own: see `storage.tokens`.
        method: What stores: `PUT` or `POST`.
        project_root: Folder that goes into the bundle; found from the flow's file when not given.
        pickle: True to load a pickle of the flow instead of its file.
    """

    kind: ClassVar[str] = "http"

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        method: str = "PUT",
        project_root: str | os.PathLike[str] | None = None,
        pickle: bool = False,
    ) -> None:
        super().__init__(project_root=project_root, pickle=pickle)
        scheme, _, rest = url.rstrip("/").partition("://")
        host, slash, path = rest.partition("/")
        url = f"{scheme.lower()}://{host.lower()}{slash}{path}"
        if not _URL.fullmatch(url) or not host:
            raise InvalidArgumentError(
                f"{url.partition('?')[0].rpartition('@')[2]!r} is no address of bundles: https://host/path is expected,"
                " without user and query"
            )
        if method not in ("PUT", "POST"):
            raise InvalidArgumentError(f"method is PUT or POST, not {method!r}")
        self.url = url
        self.method = method
        self._secret = secret or ""

    @classmethod
    def at(cls, location: str, host: str = "") -> HTTP:
        """Returns the storage that a location names, to fetch from."""
        del host
        try:
            made = cls(location)
        except InvalidArgumentError as error:
            raise StorageError(str(error)) from error
        if made.url != location:
            raise StorageError(f"{location!r} is another spelling of {made.url}")
        return made

    @property
    def location(self) -> str:
        """The address."""
        return self.url

    def _login(self) -> dict[str, str]:
        host, path = host_of(self.url), urllib.parse.urlsplit(self.url).path
        name = self._secret or bound_secret(host, path)
        if not name:
            return {}
        text = secret_text(name)
        if found := _HEADER.fullmatch(text):
            return {found[1]: found[2]}
        if ":" in text:
            return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
        return {"Authorization": f"Bearer {text}"}

    def _put(self, key: str, data: bytes, *, replace: bool = True) -> bool:
        session = Session()
        there = self._send(session, "HEAD", key, expect=(200, 204, 404)).status != 404
        if there and (not replace or self._same(session, key, data)):
            return False
        condition = {} if there else {"If-None-Match": "*"}
        answer = self._send(session, self.method, key, body=data, headers=condition,
                            expect=(200, 201, 202, 204, 404, 409, 412))  # fmt: skip
        if answer.status in (404, 409):
            self._make_folders(session, key)
            answer = self._send(
                session, self.method, key, body=data, headers=condition, expect=(200, 201, 202, 204, 412)
            )
        return answer.status != 412  # another registration was quicker

    def _same(self, session: Session, key: str, data: bytes) -> bool:
        """True when the server has these very bytes: they are read, for what it says of them may be of another day."""
        with tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES) as spool:
            try:
                self._send(session, "GET", key, into=cast("BinaryIO", spool), limit=len(data))
            except HTTPError:
                raise
            except StorageError:  # longer
                return False
            spool.seek(0)
            return spool.read() == data

    def _make_folders(self, session: Session, key: str) -> None:
        """Makes the folders of a key, for servers of WebDAV that want them first."""
        parts = key.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            self._send(session, "MKCOL", "/".join(parts[:count]) + "/", expect=(200, 201, 204, 301, 405, 409))

    def _open(self, key: str) -> BinaryIO:
        spool = tempfile.SpooledTemporaryFile(max_size=_MAX_MEMORY_BYTES)  # noqa: SIM115 (the caller closes it)
        try:
            stream = cast("BinaryIO", spool)
            limit = config().storage.hard_limit_bytes + _MAX_OVERHEAD_BYTES
            status = self._send(Session(), "GET", key, into=stream, limit=limit, expect=(200, 404, 410)).status
        except BaseException:
            spool.close()
            raise
        if status != 200:
            spool.close()
            raise ObjectMissingError(f"{self.url}/{key} is not there", hint="Register the flow again.")
        spool.seek(0)
        return stream

    def _send(
        self,
        session: Session,
        method: str,
        key: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        into: BinaryIO | None = None,
        limit: int = _MAX_MEMORY_BYTES,
        expect: tuple[int, ...] = (200,),
    ) -> Answer:
        host = host_of(self.url)
        try:
            return session.send(
                method, f"{self.url}/{key}", headers=headers, secret=self._login(), body=body,
                into=into, limit=limit, expect=expect,
            )  # fmt: skip
        except HTTPError as error:
            if error.status not in (401, 403, 405):
                raise
            way = f"Bind a login: storage.tokens, {host}=NAME_OF_SECRET; at registration secret=…."
            if error.status == 405:
                way = f"The server takes no {method} there. Let it, or use other storage."
            refused = HTTPError(str(error), hint=error.hint or way)
            refused.status = error.status
            raise refused from error


class Webhook(HTTP):
    """Prefect 1's storage of templated requests, as far as a location can say what it did.

    Addresses may name variables of the environment, `${NAME}`; headers of registration may name secrets as well. The
    control plane is told the address to read from, so it has no secret in it, and agents log in by `storage.tokens`.

    Args:
        build_request_kwargs: `url` and `headers` of what stores.
        build_request_http_method: `PUT` or `POST`.
        get_flow_request_kwargs: `url` of what reads: the same as the one that stores.
        get_flow_request_http_method: `GET`.
        stored_as_script: True for the flow's file.
        flow_script_path: Accepted: the flow's file is found.
        build_secret_config: Name in a template to `{"value": NAME, "type": "environment" or "secret"}`.
        get_flow_secret_config: The same for reading: `environment` only.
        **prefect: What Prefect 1 had besides.
    """

    def __init__(
        self,
        build_request_kwargs: Mapping[str, Any],
        build_request_http_method: str,
        get_flow_request_kwargs: Mapping[str, Any],
        get_flow_request_http_method: str = "GET",
        stored_as_script: bool = True,
        flow_script_path: str | None = None,
        build_secret_config: Mapping[str, Mapping[str, str]] | None = None,
        get_flow_secret_config: Mapping[str, Mapping[str, str]] | None = None,
        **prefect: Any,
    ) -> None:
        del flow_script_path
        accept_common("Webhook", prefect)
        if get_flow_request_http_method.upper() != "GET":
            raise InvalidArgumentError("Webhook: agents read with GET")
        for name, given in (("build", build_request_kwargs), ("get_flow", get_flow_request_kwargs)):
            if unknown := set(given) - {"url", "headers"} or "url" not in given:
                raise InvalidArgumentError(
                    f"Webhook: {name}_request_kwargs has url and headers; {unknown} is not understood here"
                )
        put = str(build_request_kwargs["url"])
        get = _rendered(str(get_flow_request_kwargs["url"]), get_flow_secret_config, secrets=False)
        if _rendered(put, build_secret_config, secrets=False).rstrip("/") != get.rstrip("/"):
            raise InvalidArgumentError(
                "Webhook: what stores and what reads have the same address, below which bundles are"
            )
        super().__init__(get, method=build_request_http_method.upper(), pickle=not stored_as_script)
        self._templates = {str(k): str(v) for k, v in dict(build_request_kwargs.get("headers") or {}).items()}
        self._config = {name: dict(where) for name, where in (build_secret_config or {}).items()}

    def _login(self) -> dict[str, str]:
        own = {name: _rendered(text, self._config, secrets=True) for name, text in self._templates.items()}
        return {**super()._login(), **own}


def _rendered(text: str, where: Mapping[str, Mapping[str, str]] | None, *, secrets: bool) -> str:
    """Fills a template's `${NAME}`s in."""

    def value(name: str) -> str:
        given = (where or {}).get(name, {"value": name, "type": "environment"})
        if given.get("type") == "secret":
            if not secrets:
                raise InvalidArgumentError(f"Webhook: an address cannot hold the secret {given.get('value')!r}")
            return secret_text(str(given["value"]))
        found = os.environ.get(str(given.get("value")))
        if found is None:
            raise StorageError(f"the variable {given.get('value')} of a Webhook's template is not set here")
        return found

    names = [match[1] or match[2] for match in re.finditer(r"\$(?:\{(\w+)\}|(\w+))", text)]
    return string.Template(text).substitute({name: value(name) for name in names})
