"""Canaries: unique strings put where user data is, and the search for them where it must not be.

A whole-string search of raw bytes misses what pages split, encodings disguise and compression hides, and so reports
"clean" wrongly. This one takes 8-byte n-grams of every usual form of a canary and also looks into compressed streams,
as they are and as text. `tests/privacy/test_scanner.py` proves that it finds what is planted.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import re
import secrets
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ahocorasick_rs import BytesAhoCorasick

NGRAM = 8
"""Characters of the pieces that are looked for."""
ENOUGH = 12
"""Characters of one form that pieces must cover to make a hit: chance gives 8 in many gigabytes, never 12."""

# How compressed streams begin, as they are and as text; each begins with a literal, which makes it quick to look for.
_STREAMS = (re.compile(rb"\x78[\x01\x5e\x9c\xda]"), re.compile(rb"\x1f\x8b\x08"))
_STREAMS_AS_BASE64 = (re.compile(rb"H4sI[A-Za-z0-9+/_\-]{24,}"), re.compile(rb"e[AFJN][A-Za-z0-9+/_\-]{24,}"))
_STREAMS_AS_HEX = (
    re.compile(rb"1[fF]8[bB]08[0-9A-Fa-f]{40,}"),
    re.compile(rb"7(?:801|85[eE]|89[cC]|8[dD][aA])[0-9A-Fa-f]{40,}"),
)
_INFLATE_LIMIT = 8 << 20
_STEP = 1024
_MOST_NESTED = 3
_ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class Canaries:
    """Makes one canary per slot, and names the slots that are found."""

    def __init__(self) -> None:
        self.by_slot: dict[str, str] = {}
        self._scanner: _Scanner | None = None

    def __getitem__(self, slot: str) -> str:
        """Returns the slot's canary: 32 letters and digits that occur nowhere else; it begins with a letter."""
        if slot not in self.by_slot:
            rest = "".join(secrets.choice(_ALPHABET) for _ in range(31))
            self.by_slot[slot] = secrets.choice(_ALPHABET[:-8]) + rest
            self._scanner = None
        return self.by_slot[slot]

    def learn(self, slot: str, text: str) -> None:
        """Takes a text that somebody else made for a canary: a token."""
        self.by_slot[slot] = text
        self._scanner = None

    def found_in(self, sinks: Iterable[bytes]) -> set[str]:
        """Returns the slots whose canaries are in any of the sinks, in any form."""
        if self._scanner is None:
            self._scanner = _Scanner(self.by_slot)
        return {slot for sink in sinks for slot in self._scanner.found_in(sink)}


class _Scanner:
    """Looks for all forms of all canaries at once."""

    def __init__(self, by_slot: dict[str, str]) -> None:
        owners: dict[bytes, list[tuple[str, int, int, int]]] = defaultdict(list)
        for slot, text in by_slot.items():
            for number, (form, width) in enumerate(dict.fromkeys(_forms(text))):
                for at in range(0, len(form) - NGRAM * width + 1, 2):
                    owners[form[at : at + NGRAM * width]].append((slot, number, at, width))
        self._owners = list(owners.values())
        self._machine = BytesAhoCorasick(list(owners)) if owners else None

    def found_in(self, sink: bytes) -> set[str]:
        return {slot for data in _unpacked(sink, 0) for slot in self._found_in(data)}

    def _found_in(self, data: bytes) -> set[str]:
        if self._machine is None:
            return set()
        grams = {number for number, _, _ in self._machine.find_matches_as_indexes(data, overlapping=True)}
        covered: dict[tuple[str, int, int], set[int]] = defaultdict(set)
        for gram in grams:
            for slot, form, at, width in self._owners[gram]:
                covered[slot, form, width].update(range(at, at + NGRAM * width))
        return {slot for (slot, _, width), places in covered.items() if len(places) >= ENOUGH * width}


def _forms(text: str) -> Iterator[tuple[bytes, int]]:
    """The usual disguises of a text, and the digests by which a guess of it could be confirmed.

    With each comes the number of its bytes that say as much as one character: 4 in UTF-32, whose other three are zero.
    """
    raw = text.encode()
    for shape in (text, text.lower(), text.upper(), text[::-1], codecs.encode(text, "rot13")):
        yield shape.encode(), 1
    yield text.encode("utf-16-le"), 2
    yield text.encode("utf-32-le"), 4
    yield raw.hex().encode(), 2
    yield raw.hex().upper().encode(), 2
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        yield encoded[4 if shift else 0 : -4], 1
        yield base64.urlsafe_b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4], 1
    yield base64.b32encode(raw), 1
    yield base64.b85encode(raw), 1
    yield base64.a85encode(raw), 1
    for algorithm in ("md5", "sha1", "sha256"):
        digest = hashlib.new(algorithm, raw).digest()
        yield digest, 1
        yield digest.hex().encode(), 2
        yield base64.b64encode(digest)[:-4], 1


def _unpacked(data: bytes, depth: int) -> Iterator[bytes]:
    """The bytes, and what every compressed stream in them inflates to, also one within another or as text."""
    yield data
    if depth == _MOST_NESTED:
        return
    for packed in _streams(data):
        if len(inflated := _inflate(packed)) >= NGRAM:
            yield from _unpacked(inflated, depth + 1)


def _streams(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for pattern in _STREAMS:
        for match in pattern.finditer(data):
            yield view[match.start() :]
    for pattern in _STREAMS_AS_BASE64:
        for match in pattern.finditer(data):
            text = match[0].translate(bytes.maketrans(b"-_", b"+/"))
            yield memoryview(base64.b64decode(text[: len(text) // 4 * 4]))
    for pattern in _STREAMS_AS_HEX:
        for match in pattern.finditer(data):
            yield memoryview(bytes.fromhex(match[0][: len(match[0]) // 2 * 2].decode()))


def _inflate(data: memoryview) -> bytes:
    """Inflates as far as it goes; most matches of the magic bytes are chance."""
    machine = zlib.decompressobj(zlib.MAX_WBITS | 32)
    kept = bytearray()
    for start in range(0, min(len(data), _INFLATE_LIMIT), _STEP):
        try:
            kept += machine.decompress(data[start : start + _STEP], _INFLATE_LIMIT)
        except zlib.error:
            break
        if machine.eof or len(kept) > _INFLATE_LIMIT:
            break
    return bytes(kept)
