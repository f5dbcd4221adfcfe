"""Canaries: unique strings put where user data is, and the search for them where it must not be.

A whole-string search of raw bytes misses what pages split, encodings disguise and compression hides, and so reports
"clean" wrongly. This one takes 8-byte n-grams of every usual form of a canary and also looks into every zlib and gzip
stream. `tests/privacy/test_scanner.py` proves that it finds what is planted.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator

NGRAM = 8
ENOUGH = 2
"""Disjoint n-grams of one form that make a hit: 16 of its bytes, contiguous or split once."""

_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
_GZIP = re.compile(rb"\x1f\x8b\x08")
_INFLATE_LIMIT = 8 << 20


class Canaries:
    """Makes one canary per slot, and names the slots that are found."""

    def __init__(self) -> None:
        self.by_slot: dict[str, str] = {}

    def __getitem__(self, slot: str) -> str:
        """Returns the slot's canary: 32 letters and digits that occur nowhere else."""
        if slot not in self.by_slot:
            alphabet = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
            self.by_slot[slot] = "".join(secrets.choice(alphabet) for _ in range(32))
        return self.by_slot[slot]

    def found_in(self, sinks: Iterable[bytes]) -> set[str]:
        """Returns the slots whose canaries are in any of the sinks, in any form."""
        forms = {slot: [_ngrams(form) for form in _forms(text)] for slot, text in self.by_slot.items()}
        hits: set[str] = set()
        for sink in sinks:
            for data in _unpacked(sink):
                for slot, shapes in forms.items():
                    if slot not in hits and any(sum(gram in data for gram in grams) >= ENOUGH for grams in shapes):
                        hits.add(slot)
        return hits


def _ngrams(form: bytes) -> list[bytes]:
    """Disjoint n-grams at four offsets, so that a split in the middle still leaves whole ones on both sides."""
    last = len(form) - NGRAM + 1
    return sorted({form[at : at + NGRAM] for start in (0, 2, 4, 6) for at in range(start, last, NGRAM)})


def _forms(text: str) -> Iterator[bytes]:
    """The usual disguises of a text."""
    raw = text.encode()
    yield raw
    yield text.encode("utf-16-le")
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        yield encoded[4 if shift else 0 : -4]
        yield base64.urlsafe_b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]
    yield urllib.parse.quote(text).encode()
    yield json.dumps(text).encode()[1:-1]
    yield raw[::-1]


def _unpacked(data: bytes) -> Iterator[bytes]:
    """The bytes, and what every compressed stream in them inflates to."""
    yield data
    for pattern, window in ((_ZLIB, zlib.MAX_WBITS), (_GZIP, zlib.MAX_WBITS | 16)):
        for match in pattern.finditer(data):
            inflated = _inflate(data[match.start() : match.start() + _INFLATE_LIMIT], window)
            if len(inflated) >= NGRAM:
                yield inflated


def _inflate(data: bytes, window: int) -> bytes:
    """Inflates as far as it goes; most matches of the magic bytes are chance."""
    machine = zlib.decompressobj(window)
    kept = bytearray()
    view = memoryview(data)
    for start in range(0, len(data), 4096):
        try:
            kept += machine.decompress(view[start : start + 4096], _INFLATE_LIMIT)
        except zlib.error:
            break
        if machine.eof or len(kept) > _INFLATE_LIMIT:
            break
    return bytes(kept)
