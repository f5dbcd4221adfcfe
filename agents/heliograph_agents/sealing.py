"""Seals what an agent tells a run through others: with a key for that one text, which travels another way.

AES-256-GCM (NIST SP 800-38D) of the package `cryptography`, with a random nonce. Each key seals texts of one attempt.

    sealed = format (1 byte) + nonce (12) + covered text and tag (16)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

FORMAT = b"\x01"
NONCE_BYTES = 12
KEY_BYTES = 32


class SealError(ValueError):
    """What is sealed cannot be opened: another key sealed it, or somebody changed it."""


def derive_key(secret: str, purpose: str) -> bytes:
    """Returns the key of 256 bits that belongs to a secret and a purpose. It says nothing about the secret."""
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).digest()


def seal(key: bytes, text: bytes) -> bytes:
    """Seals a text.

    Raises:
        ValueError: The key has not 256 bits.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE_BYTES)
    return FORMAT + nonce + AESGCM(_whole(key)).encrypt(nonce, text, FORMAT)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Opens what `seal` made.

    Raises:
        SealError: It was not made with this key, or was changed.
        ValueError: The key has not 256 bits.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce, covered = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    cipher = AESGCM(_whole(key))
    if sealed[:1] == FORMAT and len(nonce) == NONCE_BYTES:
        try:
            return cipher.decrypt(nonce, covered, FORMAT)
        except InvalidTag:
            pass
    raise SealError("what the agent sealed for this run cannot be opened")


def _whole(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {8 * KEY_BYTES} bits")
    return key
