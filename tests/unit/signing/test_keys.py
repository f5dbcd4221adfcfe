"""Signatures: the vectors of RFC 8032, keys in files, and what a signature must not fit."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.exceptions import AlreadyExistsError, InvalidArgumentError, NotFoundError, SignatureError
from heliograph.signing import PublicKey, SigningKey, Statement, TrustStore

STATEMENT = Statement("etl", "load", "s3", "s3://b/p", "sha256:aa", "sha256:bb", "img@sha256:cc", "sha256:dd", False)

# RFC 8032, section 7.1: public key, message, signature of tests 1, 2 and 3.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "keys" / "signing.key", "ann")


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032(public: str, message: str, signature: str) -> None:
    known = PublicKey(bytes.fromhex(public))
    known.verify_bytes(bytes.fromhex(signature), bytes.fromhex(message))
    with pytest.raises(SignatureError):
        known.verify_bytes(bytes.fromhex(signature), bytes.fromhex(message) + b"x")
    with pytest.raises(SignatureError):
        known.verify_bytes(bytes(64), bytes.fromhex(message))


@given(bit=st.integers(0, 511))
def test_no_bit_of_a_signature_may_differ(bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = SigningKey.create(tmp_path_factory.mktemp("keys") / "signing.key")
    signature = bytearray(key.sign(STATEMENT))
    key.public.verify(bytes(signature), STATEMENT)
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        key.public.verify(bytes(signature), STATEMENT)


@pytest.mark.parametrize("name", [field.name for field in fields(Statement)])
def test_a_signature_fits_one_statement_only(key: SigningKey, name: str) -> None:
    other = True if name == "pickled" else "another"
    with pytest.raises(SignatureError, match="does not fit"):
        key.public.verify(key.sign(STATEMENT), replace(STATEMENT, **{name: other}))


@pytest.mark.parametrize("length", [0, 1, 63, 65])
def test_a_signature_of_another_length_is_none(key: SigningKey, length: int) -> None:
    with pytest.raises(SignatureError):
        key.public.verify(key.sign(STATEMENT)[:length] + b"x" * max(0, length - 64), STATEMENT)


def test_a_key_is_read_as_it_was_written_and_by_its_owner_only(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "keys" / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == key.public == PublicKey.from_text(path.with_suffix(".pub").read_text())
    assert SigningKey.load(path).sign(STATEMENT) == key.sign(STATEMENT)
    with pytest.raises(AlreadyExistsError):
        SigningKey.create(path)
    path.chmod(0o644)
    with pytest.raises(SignatureError, match="can be read by others"):
        SigningKey.load(path)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no signing key"):
        SigningKey.load(tmp_path / "missing.key")
    path = tmp_path / "bad.key"
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(SignatureError, match="is no signing key"):
        SigningKey.load(path)


@pytest.mark.parametrize("text", ["", "ssh-ed25519 AAAA", "heliograph-ed25519 ???", "heliograph-ed25519 AAAA ann"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no public key"):
        PublicKey.from_text(text)


def test_only_trusted_keys_count(tmp_path: Path, key: SigningKey) -> None:
    trust = TrustStore(tmp_path / "trusted")
    signature = key.sign(STATEMENT)
    with pytest.raises(SignatureError, match="not trusted"):
        trust.verify(key.public.key_id, signature, STATEMENT)
    trust.add("ann", key.public)
    assert trust.verify(key.public.key_id, signature, STATEMENT) == "ann"
    with pytest.raises(SignatureError, match="is not signed"):
        trust.verify("", b"", STATEMENT)
    other = SigningKey.create(tmp_path / "other.key")
    with pytest.raises(SignatureError, match="does not fit"):  # a foreign signature under a trusted name
        trust.verify(key.public.key_id, other.sign(STATEMENT), STATEMENT)
    with pytest.raises(AlreadyExistsError):
        trust.add("ann", other.public)
    trust.remove("ann")
    with pytest.raises(SignatureError, match="not trusted"):
        trust.verify(key.public.key_id, signature, STATEMENT)


@pytest.mark.parametrize("name", ["", "../ann", "a/b", ".ann", "a\nb"])
def test_a_name_of_a_key_is_no_path(tmp_path: Path, key: SigningKey, name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        TrustStore(tmp_path / "trusted").add(name, key.public)


def test_a_damaged_trusted_key_is_no_reason_to_trust_less(tmp_path: Path, key: SigningKey) -> None:
    trust = TrustStore(tmp_path)
    trust.add("ann", key.public)
    (tmp_path / "torn.pub").write_text("heliograph-")
    with pytest.raises(InvalidArgumentError, match=r"torn\.pub"):
        trust.keys()
