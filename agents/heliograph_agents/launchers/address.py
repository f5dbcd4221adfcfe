"""The way from a container to the control plane, and the certificates that go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heliograph.client.channel import TlsFiles, is_loopback, normalize_address
from heliograph.exceptions import InvalidArgumentError

_FILES = ("tls_ca", "tls_cert", "tls_key")


def address_inside(address: str, advertised: str, networks: tuple[str, ...], tls: dict[str, Any]) -> str:
    """Returns the address that containers use.

    Args:
        address: The agent's own.
        advertised: `--advertise-address`; empty means the same.
        networks: The agent's networks; `host` means that containers share its host's loopback.
        tls: The client's TLS settings.

    Raises:
        InvalidArgumentError: Containers would not reach it, or not send a token there.
    """
    if not advertised:
        if networks != ("host",) and is_loopback(normalize_address(address)[0]):
            raise InvalidArgumentError(
                f"containers cannot reach the control plane at {address}: that is the container itself there",
                hint="Say where they reach it with --advertise-address, for example host.docker.internal:4480 (and have"
                " the control plane listen on more than loopback), or run them with --network host.",
            )
        return address
    target, wants_tls = normalize_address(advertised)
    files = TlsFiles(*(str(tls.get(name, "")) for name in _FILES))
    plain_here = not (normalize_address(address)[1] or files)
    if is_loopback(target) or wants_tls or files or tls.get("insecure") or not plain_here:
        return advertised
    if is_loopback(normalize_address(address)[0]):
        raise InvalidArgumentError(
            f"the agent speaks plain text to {address}, and containers would with TLS to {advertised}",
            hint="Set up TLS, or allow plain text with HELIOGRAPH__CLIENT__INSECURE=true where the network is trusted.",
        )
    return advertised


def certificates(tls: dict[str, Any], offer: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the TLS settings as a container has them, and the files to lay there.

    Args:
        tls: The client's TLS settings.
        offer: Folder of the container in which the files will be.

    Raises:
        OSError: A file cannot be read.
    """
    inside, files = dict(tls), {}
    for name in _FILES:
        if path := tls.get(name):
            files[f"{name}.pem"] = Path(str(path)).expanduser().read_bytes()
            inside[name] = f"{offer}/{name}.pem"
    return inside, files
