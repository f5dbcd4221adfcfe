"""Seals what an agent tells a run through others: with a key for that one text, which travels another way.

A flow's container has the base install alone, so this is made of what Python brings: the text is covered with the
output of SHAKE-256, keyed and with a random nonce, and an HMAC-SHA-256 under another key is put over both. Each key
seals texts of one attempt; nonces keep them apart.

    sealed = format (1 byte) + nonce (16) + mac (32) + covered text
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

FORMAT = b"\x01"
NONCE_BYTES, MAC_BYTES = 16, 32
LEAST_KEY_BYTES = 32


class SealError(ValueError):
    """What is sealed cannot be opened: another key sealed it, or somebody changed it."""


def derive_key(secret: str, purpose: str) -> bytes:
    """Returns the key of 256 bits that belongs to a secret and a purpose. It says nothing about the secret."""
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).digest()


def seal(key: bytes, text: bytes) -> bytes:
    """Seals a text.

    Raises:
        ValueError: The key is too short.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    covered = _cover(key, nonce, text)
    return FORMAT + nonce + _mac(key, nonce + covered) + covered


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Opens what `seal` made.

    Raises:
        SealError: It was not made with this key, or was changed.
    """
    start = 1 + NONCE_BYTES
    nonce, mac, covered = sealed[1:start], sealed[start : start + MAC_BYTES], sealed[start + MAC_BYTES :]
    if sealed[:1] != FORMAT or not hmac.compare_digest(mac, _mac(key, nonce + covered)):
        raise SealError("what the agent sealed for this run cannot be opened")
    return _cover(key, nonce, covered)


def _cover(key: bytes, nonce: bytes, text: bytes) -> bytes:
    if len(key) < LEAST_KEY_BYTES:
        raise ValueError("a key has at least 256 bits")
    stream = hashlib.shake_256(_part(key, b"cover") + nonce).digest(len(text))
    return (int.from_bytes(text, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(text), "big")


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(_part(key, b"mac"), FORMAT + data, hashlib.sha256).digest()


def _part(key: bytes, name: bytes) -> bytes:
    """Two keys out of one, so that neither use says anything about the other."""
    return hmac.new(key, name, hashlib.sha256).digest()
