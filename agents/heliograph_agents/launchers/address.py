"""What changes where a run is inside a container: its folders, the way to the control plane, the certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from heliograph.client.channel import TlsFiles, is_loopback, normalize_address
from heliograph.exceptions import InvalidArgumentError
from heliograph_agents.run_directory import RunSettings

_FILES = ("tls_ca", "tls_cert", "tls_key")


def settings_inside(settings: RunSettings, address: str, place: str) -> RunSettings:
    """Returns the agent's settings as a container has them.

    Args:
        settings: As on the agent's host.
        address: The control plane, as `address_inside` found it.
        place: Folder of the container that the attempt may write to.
    """
    return replace(
        settings,
        address=address,
        home=f"{place}/home",
        cache=f"{place}/cache",
        work_dir="",
        show_output=True,
        container=True,
    )


def address_inside(address: str, advertised: str, tls: dict[str, Any], *, what: str, advice: str) -> str:
    """Returns the address that containers use.

    Args:
        address: The agent's own.
        advertised: `--advertise-address`; empty means the same.
        tls: The client's TLS settings.
        what: What one of them is called.
        advice: What else may be done where they cannot reach it.

    Raises:
        InvalidArgumentError: Containers would not reach it, or not send a token there.
    """
    if not advertised:
        if is_loopback(normalize_address(address)[0]):
            raise InvalidArgumentError(
                f"{what}s cannot reach the control plane at {address}: that is the {what} itself there",
                hint=f"Say where they reach it with --advertise-address, {advice}.",
            )
        return address
    target, wants_tls = normalize_address(advertised)
    files = TlsFiles(*(str(tls.get(name, "")) for name in _FILES))
    plain_here = not (normalize_address(address)[1] or files)
    if is_loopback(target) or wants_tls or files or tls.get("insecure") or not plain_here:
        return advertised
    if is_loopback(normalize_address(address)[0]):
        raise InvalidArgumentError(
            f"the agent speaks plain text to {address}, and {what}s would with TLS to {advertised}",
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
