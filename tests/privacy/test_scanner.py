"""The scanner finds what is planted: without this, a clean scan would prove nothing."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from tests.support.canary import Canaries

DISGUISES: dict[str, Callable[[str], bytes]] = {
    "raw": lambda text: text.encode(),
    "in a message": lambda text: b"\x0a\x28" + text.encode() + b"\x12\x03abc",
    "split by a page": lambda text: text[:17].encode() + b"\0" * 4096 + text[17:].encode(),
    "truncated": lambda text: text[:20].encode(),
    "its end only": lambda text: text[-18:].encode(),
    "utf-16": lambda text: text.encode("utf-16-le"),
    "hex": lambda text: text.encode().hex().encode(),
    "base64, shifted": lambda text: base64.b64encode(b"x" + text.encode()),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(b"xy" + text.encode()),
    "json in json": lambda text: json.dumps(json.dumps({"key": text})).encode(),
    "zlib": lambda text: b"head" + zlib.compress(b"line\n" * 200 + text.encode()) + b"tail",
    "gzip": lambda text: b"head" + gzip.compress(b"line\n" * 200 + text.encode()),
    "backwards": lambda text: text[::-1].encode(),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_planted_canary_is_found_and_named(disguise: str) -> None:
    """Each disguise is seen through; the other canary is not reported."""
    canaries = Canaries()
    planted, absent = canaries["planted"], canaries["absent"]
    assert planted != absent
    sink = b"before" * 100 + DISGUISES[disguise](planted) + b"after" * 100
    assert canaries.found_in([sink]) == {"planted"}


def test_noise_is_clean() -> None:
    """A sink without canaries has no hits."""
    canaries = Canaries()
    for slot in ("a", "b", "c"):
        assert canaries[slot]
    assert canaries.found_in([bytes(range(256)) * 4000, zlib.compress(b"nothing here" * 1000)]) == set()
