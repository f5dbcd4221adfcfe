"""Opens gRPC channels to a control plane: address, TLS, token, keepalive. It owns no call.

Plaintext is for loopback and unix sockets; anywhere else it takes `insecure=True`, since a bearer token would
travel readably. Loopback uses TLS when certificates are named.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import heliograph
from heliograph.exceptions import ConfigurationError

if TYPE_CHECKING:
    import grpc
    import grpc.aio

DEFAULT_PORT = 4480
KEEPALIVE_SECONDS, KEEPALIVE_ANSWER_SECONDS = 20, 10
"""How often a quiet connection is tried, and how long it may take to answer: a dead one is known after 30 s."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Answers larger than this are refused by the client; a graph of 10,000 tasks is about 2 MiB."""

# A name or IPv4 address, an IPv6 address in brackets, or one without, which leaves no room for a port.
_ADDRESS = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?|(?P<six>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*))"
)

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files for TLS, PEM. Empty paths mean: the system's authorities, and no client certificate.

    Attributes:
        ca: Authorities that the server's certificate is checked against.
        cert: The client's certificate chain, for mutual TLS.
        key: The client's private key.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    def __bool__(self) -> bool:
        return bool(self.ca or self.cert or self.key)


def normalize_address(address: str) -> tuple[str, bool]:
    """Returns `host:port` and whether the address itself asks for TLS (`https://…`).

    Raises:
        ConfigurationError: The address is empty, has a path, or a port that is none.
    """
    text = address.strip()
    wants_tls = text.startswith(("https://", "grpcs://"))
    for scheme in ("https://", "http://", "grpcs://", "grpc://"):
        text = text.removeprefix(scheme)
    if text.startswith("unix:"):
        return text, wants_tls
    match = _ADDRESS.fullmatch(text.removesuffix("/"))
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigurationError(
            f"not an address of a control plane: {address!r}",
            hint=f"write HOST:PORT, for example 127.0.0.1:{DEFAULT_PORT}",
        )
    host = match["host"] or f"[{match['six']}]"
    return f"{host}:{port}", wants_tls


def is_loopback(address: str) -> bool:
    """True when a normalized address stays on this machine."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@overload
def open_channel(
    address: str,
    token: str | None = ...,
    tls: TlsFiles | None = ...,
    *,
    insecure: bool = ...,
    aio: Literal[False] = ...,
) -> grpc.Channel: ...
@overload
def open_channel(
    address: str,
    token: str | None = ...,
    tls: TlsFiles | None = ...,
    *,
    insecure: bool = ...,
    aio: Literal[True],
) -> grpc.aio.Channel: ...
def open_channel(
    address: str,
    token: str | None = None,
    tls: TlsFiles | None = None,
    *,
    insecure: bool = False,
    aio: bool = False,
) -> grpc.Channel | grpc.aio.Channel:
    """Opens a channel; it connects at the first call.

    Args:
        address: `host:port`; the port is 4480 when left out.
        token: Sent as `authorization: Bearer` with every call.
        tls: Certificates. Off loopback, TLS with the system's authorities is the default.
        insecure: Allows plaintext off loopback.
        aio: Returns a `grpc.aio` channel. A channel must not be used after a fork.

    Raises:
        ConfigurationError: The address or a certificate file cannot be read.
    """
    import grpc

    target, wants_tls = normalize_address(address)
    files = tls or TlsFiles()
    loopback = is_loopback(target)
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
        # The limit that gRPC really goes by; a minute by default, however short the one above is.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
        # gRPC would stop asking, or ask more seldom, while a long poll or a stream waits without data.
        ("grpc.http2.max_pings_without_data", 0),
        # A channel made anew is to have a connection of its own, not the one that its predecessor was given up for.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", _user_agent()),
        # Retries are ours alone: the client knows which calls are idempotent.
        ("grpc.enable_retries", 0),
    ]
    if loopback:
        options.append(("grpc.enable_http_proxy", 0))
    metadata: Metadata = [("heliograph-client", _user_agent())]
    if token:
        metadata = [*metadata, ("authorization", f"Bearer {token}")]
    secure = bool(files) or wants_tls or not (loopback or insecure)
    credentials = _credentials(files) if secure else None
    if aio:
        import grpc.aio

        interceptors = _aio_interceptors(metadata)
        if credentials is not None:
            return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    channel = (
        grpc.secure_channel(target, credentials, options=options)
        if credentials is not None
        else grpc.insecure_channel(target, options=options)
    )
    return grpc.intercept_channel(channel, _sync_interceptor(metadata))


def new_request_id() -> str:
    """Makes the id of one intent. Repeat a call with the same id and it takes effect once."""
    return str(uuid.uuid4())


def _user_agent() -> str:
    return f"heliograph-python/{heliograph.__version__}"


def _credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    import grpc

    def read(path: str, what: str) -> bytes | None:
        if not path:
            return None
        try:
            return Path(path).expanduser().read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"cannot read the {what} {path}: {error.strerror}", hint="check the path and its permissions"
            ) from error

    if bool(files.cert) != bool(files.key):
        raise ConfigurationError("a client certificate needs its key, and the other way round")
    return grpc.ssl_channel_credentials(
        root_certificates=read(files.ca, "certificate authorities"),
        private_key=read(files.key, "client key"),
        certificate_chain=read(files.cert, "client certificate"),
    )


class _CallDetails(NamedTuple):
    """What an interceptor hands on: the caller's details with our metadata."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any = None


def _with_metadata(details: Any, metadata: Metadata) -> _CallDetails:
    return _CallDetails(
        details.method,
        details.timeout,
        [*(details.metadata or ()), *metadata],
        details.credentials,
        details.wait_for_ready,
        getattr(details, "compression", None),
    )


def _sync_interceptor(metadata: Metadata) -> Any:
    import grpc

    def intercept(_: Any, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(_with_metadata(details, metadata), request)

    kinds = {
        "intercept_unary_unary": grpc.UnaryUnaryClientInterceptor,
        "intercept_unary_stream": grpc.UnaryStreamClientInterceptor,
        "intercept_stream_unary": grpc.StreamUnaryClientInterceptor,
        "intercept_stream_stream": grpc.StreamStreamClientInterceptor,
    }
    return type("AddMetadata", tuple(kinds.values()), dict.fromkeys(kinds, intercept))()


def _aio_interceptors(metadata: Metadata) -> list[Any]:
    import grpc.aio

    def extended(details: Any) -> Any:
        return grpc.aio.ClientCallDetails(
            details.method,
            details.timeout,
            grpc.aio.Metadata(*(details.metadata or ()), *metadata),
            details.credentials,
            details.wait_for_ready,
        )

    async def intercept(_: Any, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(extended(details), request)

    kinds = {
        "intercept_unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
        "intercept_unary_stream": grpc.aio.UnaryStreamClientInterceptor,
        "intercept_stream_unary": grpc.aio.StreamUnaryClientInterceptor,
        "intercept_stream_stream": grpc.aio.StreamStreamClientInterceptor,
    }
    # grpc.aio files an interceptor under the first base class that it knows: each kind needs a class.
    return [type("AddMetadata", (base,), {method: intercept})() for method, base in kinds.items()]
