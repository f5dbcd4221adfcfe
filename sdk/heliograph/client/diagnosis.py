"""Looks for what stands between this machine and its control plane and storage, one layer after the other.

gRPC tells most of these troubles as one: "unavailable". Here each layer is tried by itself, with plain sockets, so that
the first one that fails is the one to mend.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heliograph.client.channel import TlsFiles, is_loopback, normalize_address
from heliograph.exceptions import HeliographError

if TYPE_CHECKING:
    from heliograph.client.client import Client

SECONDS = 5.0
"""How long one layer may take."""

MOST_SKEW_SECONDS = 30.0
"""Clocks that are further apart make log lines and timelines misleading; storage refuses signatures at 15 minutes."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_PROXY_NAMES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_NAMES = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one layer.

    Attributes:
        layer: Its name.
        good: False when it fails; None when it does not apply or could not be tried.
        said: What was found.
        advice: What to do, when it fails.
    """

    layer: str
    good: bool | None
    said: str
    advice: str = ""


class Broken(Exception):
    """A layer fails.

    Args:
        said: What was found.
        advice: What to do.
    """

    def __init__(self, said: str, advice: str) -> None:
        super().__init__(said)
        self.said, self.advice = said, advice


class Diagnosis:
    """The way to one control plane.

    Args:
        address: As the settings have it.
        tls: Certificates.
        insecure: True when plaintext is allowed off loopback.
        client: Makes the client for the layers above the connection.
    """

    def __init__(self, address: str, tls: TlsFiles, *, insecure: bool, client: Callable[[], Client]) -> None:
        self.target, wants_tls = normalize_address(address)
        self._tls, self._client = tls, client
        loopback = is_loopback(self.target)
        self.secure = bool(tls) or wants_tls or not (loopback or insecure)
        host, _, port = self.target.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self.proxy = None if loopback else proxy_for(self._host)
        self._socket: socket.socket | None = None

    def findings(self) -> Iterator[Finding]:
        """Tries the layers in order. After one that fails, those that need it are told as not tried."""
        if self.target.startswith("unix:"):
            yield Finding("name", None, "a unix socket needs none")
            return
        layers: list[tuple[str, Callable[[], Finding]]] = [
            ("name", self._name), ("TCP", self._tcp), ("proxy", self._through_proxy), ("TLS", self._handshake),
            ("ALPN", self._alpn), ("auth", self._auth), ("clock", self._clock),
        ]  # fmt: skip
        broken = ""
        try:
            for layer, look in layers:
                if broken:
                    yield Finding(layer, None, f"not tried: {broken} fails")
                    continue
                try:
                    found = look()
                except Broken as trouble:
                    found = Finding(layer, False, trouble.said, trouble.advice)
                    broken = layer
                yield found
        finally:
            if self._socket is not None:
                self._socket.close()

    def _place(self) -> tuple[str, int]:
        return self.proxy or (self._host, self._port)

    def _name(self) -> Finding:
        host, port = self._place()
        whose = "the proxy" if self.proxy else "the control plane"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Broken(
                f"{host}, the name of {whose}, is not known here: {error.strerror or error}",
                "Check the spelling of client.address, and which name server this machine asks.",
            ) from error
        addresses = sorted({str(one[4][0]) for one in found})
        return Finding("name", True, f"{host} is {', '.join(addresses)}")

    def _tcp(self) -> Finding:
        host, port = self._place()
        try:
            self._socket = socket.create_connection((host, port), SECONDS)
        except TimeoutError as error:
            raise Broken(
                f"{host}:{port} does not answer within {SECONDS:.0f} s",
                "A firewall or security group drops the packets: allow this port from here, or name a proxy.",
            ) from error
        except OSError as error:
            raise Broken(
                f"{host}:{port} refuses: {error.strerror or error}",
                "Nothing listens there: is the control plane running, and is it this port? Start one with"
                " `heliograph server start`.",
            ) from error
        return Finding("TCP", True, f"{host}:{port} answers")

    def _through_proxy(self) -> Finding:
        if self.proxy is None:
            named = next((name for name in _PROXY_NAMES if _variable(name)), "")
            said = f"{named} is set, but not used for {self._host}" if named else "none is set"
            return Finding("proxy", None, said)
        assert self._socket is not None
        where = f"{self._host}:{self._port}"
        try:
            self._socket.settimeout(SECONDS)
            self._socket.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 65536 and (more := self._socket.recv(1)):
                answer += more
        except OSError as error:
            raise Broken(f"the proxy says nothing: {error}", "Check grpc_proxy and https_proxy.") from error
        status = answer.split(b"\r\n")[0].decode("latin-1")
        if b" 200" not in answer[:16]:
            raise Broken(
                f"the proxy does not let us through: {status or 'no answer'}",
                f"Have it allow CONNECT to {where}, or add {self._host} to no_proxy.",
            )
        return Finding("proxy", True, f"through {self.proxy[0]}:{self.proxy[1]}")

    def _handshake(self) -> Finding:
        assert self._socket is not None
        if not self.secure:
            self._look_at_plaintext(self._socket)
            return Finding("TLS", None, "plaintext, as the address and client.insecure say")
        try:
            context = ssl.create_default_context(cafile=self._tls.ca or None)
            if self._tls.cert:
                context.load_cert_chain(self._tls.cert, self._tls.key)
        except OSError as error:
            raise Broken(
                f"a certificate file cannot be read: {error}", "Check client.tls_ca, tls_cert, tls_key."
            ) from error
        context.set_alpn_protocols(["h2"])
        try:
            self._socket.settimeout(SECONDS)
            self._socket = context.wrap_socket(self._socket, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise Broken(f"the server's certificate is refused: {error.verify_message}", _advice_on(error)) from error
        except ssl.SSLError as error:
            raise Broken(
                f"there is no TLS there: {error.reason or error}",
                "If the control plane has no certificate, set HELIOGRAPH__CLIENT__INSECURE=true, on a network that you"
                " trust; else check the port.",
            ) from error
        except OSError as error:
            raise Broken(
                f"the connection ended in the handshake: {error}",
                "Something between cuts TLS, the server wants a client certificate, or it speaks plaintext.",
            ) from error
        return Finding("TLS", True, f"{self._socket.version()}")

    @staticmethod
    def _look_at_plaintext(connection: socket.socket) -> None:
        connection.settimeout(SECONDS)
        answer = b""
        with suppress(OSError):
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
        if answer[:1] == b"\x15":
            raise Broken(
                "the server speaks TLS, we do not", "Write the address as https://HOST:PORT, or name its authority with"
                " HELIOGRAPH__CLIENT__TLS_CA.",
            )  # fmt: skip
        if len(answer) < 9 or answer[3:4] != b"\x04":
            raise Broken(
                "what listens there does not speak HTTP/2",
                "It is no control plane, or it wants TLS: write the address as https://HOST:PORT.",
            )

    def _alpn(self) -> Finding:
        if not isinstance(self._socket, ssl.SSLSocket):
            return Finding("ALPN", None, "plaintext needs none")
        chosen = self._socket.selected_alpn_protocol()
        if chosen != "h2":
            raise Broken(
                f"the server chooses {chosen or 'no protocol'} where gRPC needs h2",
                "A proxy or balancer ends TLS before the control plane: let it pass TCP through, or speak HTTP/2.",
            )
        return Finding("ALPN", True, "h2")

    def _auth(self) -> Finding:
        try:
            who = self._client().whoami()
        except HeliographError as error:
            raise Broken(str(error), error.hint or "Sign in with `heliograph auth login`.") from error
        return Finding("auth", True, f"signed in as {who.principal}")

    def _clock(self) -> Finding:
        try:
            before = time.time()
            stamp = self._client().get_server_info().time
            after = time.time()
        except HeliographError as error:
            raise Broken(str(error), error.hint) from error
        there = stamp.seconds + stamp.nanos / 1e9
        skew = max(before - there, there - after, 0.0)
        if skew > MOST_SKEW_SECONDS:
            way = "behind" if there > after else "ahead of"
            raise Broken(
                f"this machine's clock is {skew:,.0f} s {way} the control plane's",
                "Set both by NTP: storage refuses requests when clocks are wrong, and timelines mislead.",
            )
        return Finding("clock", True, f"within {skew:.1f} s of the control plane's" if skew >= 0.05 else "in step")


def storage_finding(location: str = "") -> Finding:
    """Tries the storage of bundles.

    Args:
        location: A folder, `s3://bucket/prefix`, `gs://bucket/prefix`, or a kind and its address,
            `azure:https://NAME.blob.core.windows.net/container`; empty means the default folder.
    """
    from heliograph.storage import BundleRef, Local, from_reference
    from heliograph.storage.base import ObjectMissingError
    from heliograph.storage.repository import Repository

    scheme = location.partition("://")[0] if "://" in location else "local"
    kind, named, _ = scheme.rpartition(":")
    known = {"gs": "gcs", "https": "http"}
    kind, location = (kind, location.removeprefix(f"{kind}:")) if named else (known.get(scheme, scheme), location)
    advice = "Check its name, this machine's credentials for it, and the way there."
    try:
        storage = from_reference(kind, location) if location else Local()
        if isinstance(storage, Local):
            return _folder_finding(storage.directory)
        if isinstance(storage, Repository):
            return Finding("storage", True, f"{location} can be read: {storage.probe()}")
        nothing = f"sha256:{'0' * 64}"
        with suppress(ObjectMissingError):  # the answer that a storage gives that we may read
            storage.fetch_launch(BundleRef(kind, location, nothing, nothing))
    except HeliographError as error:
        return Finding("storage", False, str(error), error.hint or advice)
    return Finding("storage", True, f"{location} can be read")


def _folder_finding(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.R_OK | os.X_OK):
        return Finding("storage", False, f"{there} may not be read", f"Give this user the right: chmod u+rx {there}")
    if not os.access(there, os.W_OK):
        return Finding(
            "storage", False, f"{there} may not be written", "Set storage.dir to a folder that this user may write."
        )
    return Finding("storage", True, f"{folder} can be read and written")


def proxy_for(host: str) -> tuple[str, int] | None:
    """Returns the proxy that gRPC would take for a host, as the environment says."""
    text = next((found for name in _PROXY_NAMES if (found := _variable(name))), "")
    if not text:
        return None
    without = next((found for name in _NO_PROXY_NAMES if (found := _variable(name))), "")
    for entry in (part.strip().lstrip(".") for part in without.split(",")):
        if entry and (entry == "*" or host == entry or host.endswith("." + entry)):
            return None
    parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
    with suppress(ValueError):
        if parts.hostname:
            return parts.hostname, parts.port or 80
    return None


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper(), "")


def _advice_on(error: ssl.SSLCertVerificationError) -> str:
    text = error.verify_message.lower()
    if "hostname" in text or "ip address" in text:
        return (
            "Use an address that the certificate names, or give the server one whose subjectAltName has this address."
        )
    if "expired" in text or "not yet valid" in text:
        return "Renew the server's certificate; if it is new, look at this machine's clock."
    return "Name the authority that signed it: HELIOGRAPH__CLIENT__TLS_CA=ca.pem."
