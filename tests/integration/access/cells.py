"""Cells of the matrix: many calls at once, each with what can be seen of its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from heliograph.api import contract

AT_ONCE = 48
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Seen:
    """What a caller sees of an answer. `rest`: everything else that could differ, details and keys of metadata."""

    answer: str
    rest: tuple[Any, ...]

    def matches(self, expected: str) -> bool:
        """True when it is the answer that a table names."""
        return self.answer == expected or (":" not in expected and self.answer.partition(":")[0] == expected)


@dataclass(frozen=True)
class Cell:
    """One call: `key` says which cell it is."""

    key: tuple[str, ...]
    method: str
    data: bytes
    authorization: str | None


def full_name(method: str) -> str:
    """`FlowService/GetFlow` as it is on the wire."""
    return method if method.startswith("/") else f"/heliograph.api.v1.{method}"


_STREAMS = {
    f"/{method.containing_service.full_name}/{method.name}": (method.client_streaming, method.server_streaming)
    for method in contract.methods()
}


def call_all(channel: grpc.Channel, cells: Iterable[Cell], words: set[str]) -> dict[tuple[str, ...], Seen]:
    """Makes all calls, some at a time. `words` are taken out of texts before they are compared."""
    mask = _masking(words)
    seen: dict[tuple[str, ...], Seen] = {}
    waiting = iter(cells)
    while batch := list(islice(waiting, AT_ONCE)):
        calls = [(cell, _start(channel, cell)) for cell in batch]
        for cell, call in calls:
            assert cell.key not in seen, cell.key
            seen[cell.key] = _finish(call, mask, stream=_STREAMS.get(full_name(cell.method)) != (False, False))
    return seen


def _start(channel: Any, cell: Cell) -> Any:
    path = full_name(cell.method)
    metadata = (("authorization", cell.authorization),) if cell.authorization is not None else ()
    streams = _STREAMS.get(path, (True, True))
    if streams == (False, False):
        return channel.unary_unary(path).future(cell.data, timeout=30, metadata=metadata)
    if streams == (False, True):
        return channel.unary_stream(path)(cell.data, timeout=30, metadata=metadata)
    return channel.stream_stream(path)(iter([cell.data]), timeout=30, metadata=metadata)


def _finish(call: Any, mask: Callable[[bytes], bytes], *, stream: bool) -> Seen:
    try:
        if stream:
            next(call, None)
        else:
            call.result()
    except grpc.RpcError as error:
        return _refusal(error, mask)
    finally:
        call.cancel()
    return Seen("OK", ())


def _refusal(error: Any, mask: Callable[[bytes], bytes]) -> Seen:
    metadata = dict(error.trailing_metadata() or ())
    reason, details = error.code().name, []
    status = status_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
        details.append((detail.type_url, mask(detail.value)))
    text = mask(str(error.details()).encode()).decode()
    initial = tuple(sorted(key for key, _ in error.initial_metadata() or ()))
    return Seen(f"{reason}: {text}", (error.code(), tuple(details), tuple(sorted(metadata)), initial))


def _masking(words: set[str]) -> Callable[[bytes], bytes]:
    names = re.compile(b"|".join(re.escape(word.encode()) for word in sorted(words, key=len, reverse=True)) or rb"(?!)")

    def mask(text: bytes) -> bytes:
        return _UUID.sub(b"ID", names.sub(b"NAME", text))

    return mask
