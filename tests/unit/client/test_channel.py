"""Addresses, where plaintext is allowed, and what every call carries."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import ends

from heliograph.client.channel import TlsFiles, is_loopback, normalize_address, open_channel
from heliograph.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("given_address", "expected"),
    [
        ("127.0.0.1:4480", ("127.0.0.1:4480", False)),
        ("example.org", ("example.org:4480", False)),
        ("https://example.org:443/", ("example.org:443", True)),
        ("http://localhost:99", ("localhost:99", False)),
        ("[::1]:4480", ("[::1]:4480", False)),
        ("::1", ("[::1]:4480", False)),
        ("unix:/run/h.sock", ("unix:/run/h.sock", False)),
    ],
)
def test_addresses_are_normalized(given_address: str, expected: tuple[str, bool]) -> None:
    assert normalize_address(given_address) == expected


@pytest.mark.parametrize("bad", ["", " ", "host:0", "host:99999", "host:port", "host/path", "a b:1", "user@host:1"])
def test_what_is_no_address_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="not an address"):
        normalize_address(bad)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_configuration_error(text: str) -> None:
    try:
        address, _ = normalize_address(text)
    except ConfigurationError:
        return
    assert normalize_address(address)[0] == address


def test_loopback_is_known() -> None:
    assert is_loopback("127.0.0.1:1")
    assert is_loopback("127.1.2.3:1")
    assert is_loopback("[::1]:1")
    assert is_loopback("localhost:1")
    assert is_loopback("unix:/x")
    assert not is_loopback("10.0.0.1:1")
    assert not is_loopback("localhost.example.org:1")


@pytest.fixture
def echo() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps the metadata of its calls."""
    seen: list[dict[str, Any]] = []

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            seen.append(dict(details.invocation_metadata))
            if details.method.endswith("Stream"):
                return grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request]))
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", seen
    ends.stop(server)


def test_calls_carry_token_and_client(echo: tuple[str, list[dict[str, Any]]]) -> None:
    address, seen = echo
    with open_channel(address, "secret") as channel:
        assert channel.unary_unary("/s/Unary")(b"x", timeout=60) == b"x"
        assert list(channel.unary_stream("/s/Stream")(b"y", timeout=60)) == [b"y"]
    assert [call["authorization"] for call in seen] == ["Bearer secret"] * 2
    assert all(call["heliograph-client"].startswith("heliograph-python/") for call in seen)


async def test_asynchronous_calls_carry_them_too(echo: tuple[str, list[dict[str, Any]]]) -> None:
    address, seen = echo
    async with open_channel(address, "secret", aio=True) as channel:
        assert await channel.unary_unary("/s/Unary")(b"x", timeout=60) == b"x"
        assert [item async for item in channel.unary_stream("/s/Stream")(b"y", timeout=60)] == [b"y"]
    assert [call["authorization"] for call in seen] == ["Bearer secret"] * 2


def test_off_loopback_plaintext_is_not_spoken(echo: tuple[str, list[dict[str, Any]]]) -> None:
    address, seen = echo
    # The same server, by an address that asks for TLS: the token never travels.
    with open_channel(f"https://{address}", "secret") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/s/Unary")(b"x", timeout=3)
    assert seen == []


def test_certificate_files_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read the certificate authorities"):
        open_channel("example.org", tls=TlsFiles(ca=str(tmp_path / "missing.pem")))
    with pytest.raises(ConfigurationError, match="needs its key"):
        open_channel("example.org", tls=TlsFiles(cert="cert.pem"))
