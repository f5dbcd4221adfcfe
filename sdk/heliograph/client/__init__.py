"""The client of a control plane, and secrets of the user's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliograph.client.client import Client
    from heliograph.client.secrets import Secret

__all__ = ["Client", "Secret"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: a flow process needs neither gRPC nor protobuf."""
    if name == "Client":
        from heliograph.client.client import Client

        return Client
    if name == "Secret":
        from heliograph.client.secrets import Secret

        return Secret
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
