"""Signed bundles: authors sign what they register, agents verify it with keys that their operators trust."""

from __future__ import annotations

from heliograph.signing.keys import PublicKey, SigningKey, TrustStore, signing_key
from heliograph.signing.statement import Statement

__all__ = ["PublicKey", "SigningKey", "Statement", "TrustStore", "signing_key"]
