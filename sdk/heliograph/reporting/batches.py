"""Requests made of raw records: the bytes of a message whose repeated field is appended without parsing.

A repeated message field is a tag, a length and the message's bytes, once per element, so serialized events can be put
behind the serialized rest of the batch. Decoding gives what the generated class would have made; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable

_EVENTS_TAG = b"\x32"  # field 6, length-delimited: RunEventBatch.events
_ENTRIES_TAG = b"\x1a"  # field 3, length-delimited: WriteLogEntriesRequest.entries

MAX_RECORDS = 1000
"""Most events or lines in one request."""

MAX_EVENT_BYTES = 960 * 1024
"""Most bytes of events in one batch: 1 MiB with the lengths and the rest of the message."""

MAX_ENTRY_BYTES = 240 * 1024
"""Most bytes of lines in one request: 256 KiB with the lengths and the rest of the message."""


def varint(value: int) -> bytes:
    """Returns `value` (not negative) as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_EVENT_PREFIXES = [_EVENTS_TAG + varint(length) for length in range(512)]
_ENTRY_PREFIXES = [_ENTRIES_TAG + varint(length) for length in range(512)]


def event_batch(rest: bytes, payloads: Iterable[bytes]) -> bytes:
    """Returns a `RunEventBatch`: `rest` is one without events, serialized; `payloads` are serialized `RunEvent`s."""
    return _assemble(rest, payloads, _EVENT_PREFIXES, _EVENTS_TAG)


def log_request(rest: bytes, payloads: Iterable[bytes]) -> bytes:
    """Returns a `WriteLogEntriesRequest`: `rest` is one without entries, `payloads` are serialized `LogEntry`s."""
    return _assemble(rest, payloads, _ENTRY_PREFIXES, _ENTRIES_TAG)


def _assemble(rest: bytes, payloads: Iterable[bytes], prefixes: list[bytes], tag: bytes) -> bytes:
    parts = [rest]
    known = len(prefixes)
    for payload in payloads:
        length = len(payload)
        parts.append(prefixes[length] if length < known else tag + varint(length))
        parts.append(payload)
    return b"".join(parts)
