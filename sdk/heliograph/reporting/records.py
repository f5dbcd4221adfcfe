"""The record format of the outbox: `[u32 length][u32 crc32][payload]`, little-endian.

Files end where the last whole record with a right checksum ends. What follows is a torn tail: a record that is being
written now, or one that its writer died on. A length of 0 is never written, so zeroed blocks are a torn tail too. What
has whole records behind it is no tail: it was damaged, and `resume` says where reading goes on.
"""

from __future__ import annotations

import struct
from zlib import crc32

HEADER = struct.Struct("<II")
HEADER_BYTES = HEADER.size

MAX_PAYLOAD_BYTES = 512 * 1024
"""Longest payload. An event with 50 frames of the longest names stays below 100 KiB."""

_pack = HEADER.pack
_unpack_from = HEADER.unpack_from


def record(payload: bytes) -> bytes:
    """Returns `payload` as one record.

    Raises:
        ValueError: It is empty or longer than `MAX_PAYLOAD_BYTES`.
    """
    length = len(payload)
    if not 0 < length <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record holds 1 to {MAX_PAYLOAD_BYTES} bytes, not {length}")
    return _pack(length, crc32(payload)) + payload


def scan(data: bytes, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
    """Takes whole records from the start of `data`.

    Args:
        data: Bytes of a segment, from the start of a record.
        limit: Most records to take.
        max_bytes: Most bytes of payload to take; the first record is taken in any case.

    Returns:
        The payloads, and the number of bytes that their records take. Less than `len(data)` when a limit was met or
        a torn tail follows.
    """
    payloads: list[bytes] = []
    offset = 0
    end = len(data)
    taken = 0
    while len(payloads) < limit and offset + HEADER_BYTES <= end:
        length, checksum = _unpack_from(data, offset)
        start = offset + HEADER_BYTES
        stop = start + length
        if stop > end or not 0 < length <= MAX_PAYLOAD_BYTES:
            break
        if payloads and taken + length > max_bytes:
            break
        payload = data[start:stop]
        if crc32(payload) != checksum:
            break
        payloads.append(payload)
        taken += length
        offset = stop
    return payloads, offset


def resume(data: bytes) -> int:
    """Returns where the first whole record behind a damaged start of `data` begins, or 0 when there is none."""
    end = len(data)
    for start in range(1, end - HEADER_BYTES):
        length, checksum = _unpack_from(data, start)
        if 0 < length <= min(MAX_PAYLOAD_BYTES, end - start - HEADER_BYTES):
            payload = data[start + HEADER_BYTES : start + HEADER_BYTES + length]
            if crc32(payload) == checksum:
                return start
    return 0
