"""Mistakes of what is written to disks, and of what is read from clocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def tell_later(writer: Any) -> None:
    """A state is written by the outbox's thread, some time after it was told."""
    writer.OutboxWriter.put_start = writer.OutboxWriter.put_state


BUGS: dict[str, dict[str, Callable[[Any], None]]] = {
    "tell_later": {"heliograph.reporting.writer": tell_later},
}
