"""The scanner finds what is planted: without this, a clean scan would prove nothing."""

from __future__ import annotations

import base64
import codecs
import gzip
import hashlib
import json
import subprocess
import sys
import zlib
from collections.abc import Callable

import pytest
from tests.privacy import sinks
from tests.support.canary import Canaries

DISGUISES: dict[str, Callable[[str], bytes]] = {
    "raw": lambda text: text.encode(),
    "in a message": lambda text: b"\x0a\x28" + text.encode() + b"\x12\x03abc",
    "split by a page": lambda text: text[:17].encode() + b"\0" * 4096 + text[17:].encode(),
    "truncated": lambda text: text[:14].encode(),
    "its end only": lambda text: text[-14:].encode(),
    "its middle only": lambda text: text[7:21].encode(),
    "lower case": lambda text: text.lower().encode(),
    "upper case": lambda text: text.upper().encode(),
    "utf-16": lambda text: text.encode("utf-16-le"),
    "utf-16, big end first": lambda text: b"x" + text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "hex": lambda text: text.encode().hex().encode(),
    "hex, upper case": lambda text: text.encode().hex().upper().encode(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64, shifted": lambda text: base64.b64encode(b"x" + text.encode()),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(b"xy" + text.encode()),
    "base32": lambda text: base64.b32encode(text.encode()),
    "base85": lambda text: base64.b85encode(text.encode()),
    "ascii85": lambda text: base64.a85encode(text.encode()),
    "json in json": lambda text: json.dumps(json.dumps({"key": text})).encode(),
    "zlib": lambda text: b"head" + zlib.compress(b"line\n" * 200 + text.encode()) + b"tail",
    "gzip": lambda text: b"head" + gzip.compress(b"line\n" * 200 + text.encode()),
    "gzip in zlib": lambda text: zlib.compress(b"head" + gzip.compress(text.encode())),
    "zlib in base64": lambda text: base64.b64encode(zlib.compress(b"line\n" * 20 + text.encode())),
    "gzip in base64 for addresses": lambda text: base64.urlsafe_b64encode(gzip.compress(text.encode() * 2)),
    "zlib in hex": lambda text: b"\\x" + zlib.compress(text.encode()).hex().encode(),
    "backwards": lambda text: text[::-1].encode(),
    "rotated": lambda text: codecs.encode(text, "rot13").encode(),
    "its digest": lambda text: hashlib.sha256(text.encode()).hexdigest().encode(),
    "its digest, raw": lambda text: hashlib.sha1(text.encode()).digest(),
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
    """A sink without canaries has no hits, also where its text is of the canaries' own letters."""
    canaries, others = Canaries(), Canaries()
    for slot in ("a", "b", "c"):
        assert canaries[slot]
    letters = "".join(others[str(number)] for number in range(3000)).encode()
    spread = b"".join(bytes([letter, 0, 0, 0]) for letter in letters)
    sinks_without = [bytes(range(256)) * 4000, zlib.compress(b"nothing here" * 1000), letters, letters.hex().encode(),
                     spread, base64.b64encode(letters)]  # fmt: skip
    assert canaries.found_in(sinks_without) == set()


def test_a_canary_made_later_is_looked_for_too() -> None:
    """The scanner knows all canaries that there are when it is asked."""
    canaries = Canaries()
    assert canaries.found_in([canaries["first"].encode()]) == {"first"}
    assert canaries.found_in([canaries["second"].encode()]) == {"second"}


@pytest.mark.parametrize(
    "kept_as", ["text.encode()", "text", "{text: 1}", "__import__('zlib').compress(text.encode())"]
)
def test_what_a_process_has_in_its_memory_is_found(kept_as: str) -> None:
    """In whatever form an object of it is; what another process has is not."""
    canaries = Canaries()
    code = f"import sys; text = sys.stdin.readline().strip(); kept = {kept_as}; del text; print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{canaries['kept']}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline()
        assert canaries["absent"]
        assert sinks.hits(canaries, sinks.memory(process.pid)) == {"kept": {"memory"}}
        process.stdin.close()
        process.kill()
