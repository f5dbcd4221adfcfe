"""Reads gRPC calls out of recorded HTTP/2 connections: every message and every header, as the two sides saw them.

Nothing of gRPC's own library is used: what it would hide (compression, trailing metadata, fields that no descriptor
names) is told here like everything else.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import unquote_to_bytes

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import error_details_pb2, status_pb2
from hpack import Decoder

from heliograph.api import contract

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_PACKAGE = "heliograph.api.v1."
_DETAILS = {kind.DESCRIPTOR.name: kind for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)}


@dataclass
class Half:
    """One direction of one call."""

    headers: list[tuple[str, bytes]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Said:
    """One text that crossed: where in a message or header, and what."""

    place: str
    text: bytes


def said_in(there: bytes, back: bytes) -> Iterator[Said]:
    """Yields every text of every call of a connection, both ways."""
    requests, responses = _halves(there), _halves(back)
    for stream, request in requests.items():
        path = next((value.decode() for name, value in request.headers if name == ":path"), "")
        kinds = _methods().get(path)
        response = responses.get(stream, Half())
        for half, kind in ((request, kinds and kinds[0]), (response, kinds and kinds[1])):
            yield from _said_in_headers(half)
            for message in _messages(half):
                yield from _said_in_message(kind.FromString(message)) if kind else (Said(path, message),)


def _halves(stream: bytes) -> dict[int, Half]:
    """Reads one direction of a connection, as far as it goes: it may have been cut off."""
    decoder = Decoder()
    decoder.max_allowed_table_size = 1 << 16
    halves: dict[int, Half] = {}
    block = b""
    for kind, flags, number, payload in _frames(stream.removeprefix(_PREFACE)):
        half = halves.setdefault(number, Half())
        if kind == _DATA:
            half.data += _unpadded(payload, flags)
        elif kind in (_HEADERS, _CONTINUATION):
            block += _unpadded(payload, flags)[5 if flags & _PRIORITY else 0 :] if kind == _HEADERS else payload
            if flags & _END_HEADERS:
                half.headers += [(name.decode(), value) for name, value in decoder.decode(block, raw=True)]
                block = b""
    return halves


def _frames(stream: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + 9 <= len(stream):
        length = int.from_bytes(stream[at : at + 3])
        payload = stream[at + 9 : at + 9 + length]
        if len(payload) < length:
            return
        yield stream[at + 3], stream[at + 4], int.from_bytes(stream[at + 5 : at + 9]) & 0x7FFFFFFF, payload
        at += 9 + length


def _unpadded(payload: bytes, flags: int) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED else payload


def _messages(half: Half) -> Iterator[bytes]:
    data, at = bytes(half.data), 0
    while at + 5 <= len(data):
        length = int.from_bytes(data[at + 1 : at + 5])
        body = data[at + 5 : at + 5 + length]
        if len(body) < length:
            return
        yield zlib.decompress(body, zlib.MAX_WBITS | 32) if data[at] else body
        at += 5 + length


@cache
def _methods() -> dict[str, tuple[type[Message], type[Message]]]:
    return {
        f"/{method.containing_service.full_name}/{method.name}": (
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
        )
        for method in contract.methods()
    }


def _said_in_headers(half: Half) -> Iterator[Said]:
    for name, value in half.headers:
        if name == "grpc-status-details-bin":
            yield from _said_in_status(value)
        elif name == "grpc-message":
            yield Said("status message", unquote_to_bytes(value))
        else:
            yield Said(f"metadata {name}", value)


def _said_in_status(value: bytes) -> Iterator[Said]:
    raw = value[1:] if value.startswith(b"\0") else base64.b64decode(value + b"=" * (-len(value) % 4))
    status = status_pb2.Status.FromString(raw)
    yield Said("status message", status.message.encode())
    for detail in status.details:
        name = detail.type_url.rpartition(".")[2]
        kind = _DETAILS.get(name)
        yield Said(f"status {name}", str(kind.FromString(detail.value)).encode() if kind else detail.value)


def _said_in_message(message: Message) -> Iterator[Said]:
    kind = message.DESCRIPTOR.full_name.removeprefix(_PACKAGE)
    unknown_fields = UnknownFieldSet(message)
    for index in range(len(unknown_fields)):
        unknown = unknown_fields[index]
        yield Said(f"{kind} unknown field {unknown.field_number}", repr(unknown.data).encode())
    for descriptor, value in message.ListFields():
        for item in _items(value):
            if isinstance(item, Message):
                yield from _said_in_message(item)
            elif isinstance(item, str | bytes):
                yield Said(f"{kind}.{descriptor.name}", item.encode() if isinstance(item, str) else item)


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, str | bytes | int | float | Message):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from pair
    else:
        yield from iter(value)
