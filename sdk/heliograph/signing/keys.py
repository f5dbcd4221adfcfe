"""Ed25519 keys: the author's own, and those that an agent's operator trusts.

    $HELIOGRAPH_HOME/keys/signing.key      the author's private key, PEM, 0600
    $HELIOGRAPH_HOME/keys/signing.pub      its public key, one line: `heliograph-ed25519 BASE64 COMMENT`
    $HELIOGRAPH_HOME/keys/trusted/NAME.pub keys that agents of this home trust, one line each as above

A key's id is `ed25519:` and 32 hexadecimal digits of the SHA-256 of its 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliograph.config import config, home
from heliograph.exceptions import AlreadyExistsError, InvalidArgumentError, NotFoundError, SignatureError

if TYPE_CHECKING:
    from heliograph.signing.statement import Statement

WORD = "heliograph-ed25519"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key.

    Attributes:
        data: Its 32 bytes.
        comment: Whose it is, for people.
    """

    data: bytes
    comment: str = ""

    @property
    def key_id(self) -> str:
        """Names the key."""
        return f"ed25519:{hashlib.sha256(self.data).hexdigest()[:32]}"

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Reads the one line of a `.pub` file.

        Raises:
            InvalidArgumentError: It is none.
        """
        words = text.strip().split(None, 2)
        data = b""
        if len(words) >= 2 and words[0] == WORD and "\n" not in text.strip():
            with contextlib.suppress(binascii.Error):
                data = base64.b64decode(words[1], validate=True)
        if len(data) != _KEY_BYTES:
            raise InvalidArgumentError(
                "this is no public key",
                hint=f"A public key is one line, {WORD} BASE64 COMMENT, as `heliograph keys new` writes it.",
            )
        return cls(data, words[2] if len(words) > 2 else "")

    def to_text(self) -> str:
        """Returns the line of a `.pub` file."""
        return " ".join(filter(None, (WORD, base64.b64encode(self.data).decode("ascii"), self.comment)))

    def verify(self, signature: bytes, statement: Statement) -> None:
        """Checks a signature.

        Raises:
            SignatureError: It is not this key's over this statement.
        """
        self.verify_bytes(signature, statement.to_bytes())

    def verify_bytes(self, signature: bytes, message: bytes) -> None:
        """Checks a signature over bytes, as RFC 8032 says.

        Raises:
            SignatureError: It is not this key's over this message.
        """
        ed25519 = _ed25519()
        from cryptography.exceptions import InvalidSignature

        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.data).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"the signature of key {self.key_id} does not fit what was offered",
                hint="Something was changed after it was signed, or it was signed for another flow or project.",
            ) from error


class SigningKey:
    """A private key. Never printed, never sent."""

    def __init__(self, private: Any, comment: str = "") -> None:
        self._private, self._comment = private, comment

    @classmethod
    def create(cls, path: Path, comment: str = "") -> SigningKey:
        """Makes a key and writes it to `path`, 0600, and its public half beside it.

        Raises:
            AlreadyExistsError: There is one.
        """
        from cryptography.hazmat.primitives import serialization

        key = cls(_ed25519().Ed25519PrivateKey.generate(), comment)
        data = key._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise AlreadyExistsError(
                f"there is a key at {path}", hint="Move it away first: what it has signed needs it no more."
            ) from error
        with open(descriptor, "wb") as file:  # noqa: PTH123 (the descriptor carries the mode)
            file.write(data)
        path.with_suffix(".pub").write_text(key.public.to_text() + "\n")
        return key

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Reads a key.

        Raises:
            NotFoundError: It is not there.
            SignatureError: It is none, or others may read it.
        """
        from cryptography.hazmat.primitives import serialization

        try:
            data, mode = path.read_bytes(), path.stat().st_mode
        except OSError as error:
            raise NotFoundError(f"there is no signing key at {path}", hint="Make one: heliograph keys new") from error
        if os.name == "posix" and mode & 0o077:
            raise SignatureError(
                f"the signing key {path} can be read by others", hint=f"Take that away: chmod 600 {path}"
            )
        try:
            private = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError) as error:
            raise SignatureError(f"{path} is no signing key: {error}") from error
        if not isinstance(private, _ed25519().Ed25519PrivateKey):
            raise SignatureError(f"{path} is no Ed25519 key")
        public = path.with_suffix(".pub")
        comment = PublicKey.from_text(public.read_text()).comment if public.exists() else ""
        return cls(private, comment)

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self._private.public_key().public_bytes_raw(), self._comment)

    def sign(self, statement: Statement) -> bytes:
        """Returns the signature: 64 bytes, the same for the same statement."""
        signature: bytes = self._private.sign(statement.to_bytes())
        return signature


class TrustStore:
    """The public keys that an agent trusts.

    Args:
        folder: Folder of `.pub` files; by default that of this home.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else home() / "keys" / "trusted"

    def keys(self) -> dict[str, tuple[str, PublicKey]]:
        """Returns names and keys by key id.

        Raises:
            InvalidArgumentError: A file is no public key: better no run than one that nobody vouches for.
        """
        found: dict[str, tuple[str, PublicKey]] = {}
        for path in sorted(self.folder.glob("*.pub")) if self.folder.is_dir() else ():
            try:
                key = PublicKey.from_text(path.read_text())
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"{path}: {error}", hint=error.hint) from error
            found[key.key_id] = (path.stem, key)
        return found

    def add(self, name: str, key: PublicKey) -> Path:
        """Trusts a key under a name.

        Raises:
            InvalidArgumentError: The name cannot be that of a file.
            AlreadyExistsError: Another key has the name.
        """
        if not name or not name.isprintable() or name.startswith(".") or "/" in name or "\\" in name:
            raise InvalidArgumentError(f"{name!r} cannot be the name of a key")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{name}.pub"
        if path.exists() and PublicKey.from_text(path.read_text()).data != key.data:
            raise AlreadyExistsError(f"another key is called {name}", hint="Choose another --name.")
        path.write_text(key.to_text() + "\n")
        return path

    def remove(self, name: str) -> None:
        """Trusts a key no more.

        Raises:
            NotFoundError: No key has the name.
        """
        try:
            (self.folder / f"{name}.pub").unlink()
        except OSError as error:
            raise NotFoundError(f"no trusted key is called {name}") from error

    def verify(self, key_id: str, signature: bytes, statement: Statement) -> str:
        """Checks a signature and returns the name of its key.

        Raises:
            SignatureError: It is missing, of a key that is not trusted, or wrong.
        """
        if not signature:
            raise SignatureError(
                f"{statement.project}/{statement.flow} is not signed, and this agent wants signatures",
                hint="Make a key with `heliograph keys new`, have it trusted here, and register the flow again.",
            )
        known = self.keys().get(key_id)
        if known is None:
            raise SignatureError(
                f"{statement.project}/{statement.flow} is signed by {key_id or 'a key without id'}, which is not"
                " trusted here",
                hint="If it should be: heliograph keys trust FILE",
            )
        name, key = known
        key.verify(signature, statement)
        return name


def signing_key_path() -> Path:
    """Returns where the author's key is, or would be."""
    chosen = config().client.signing_key
    return Path(chosen).expanduser() if chosen else home() / "keys" / "signing.key"


def signing_key() -> SigningKey | None:
    """Returns the author's key; None when there is none and none is named by the settings.

    Raises:
        NotFoundError: The one that the settings name is not there.
        SignatureError: It cannot be used.
    """
    path = signing_key_path()
    if not path.exists() and not config().client.signing_key:
        return None
    return SigningKey.load(path)


def _ed25519() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519
