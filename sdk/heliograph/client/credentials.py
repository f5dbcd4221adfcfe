"""Where tokens are: one file per control plane in `$HELIOGRAPH_HOME/tokens`, readable by its owner alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from heliograph.client.channel import normalize_address
from heliograph.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A token and where it was found, for `auth whoami`."""

    token: str
    source: str


def token_path(address: str) -> Path:
    """Returns the file that `auth login` writes for one control plane."""
    from heliograph.config import home

    target, _ = normalize_address(address)
    return home() / "tokens" / re.sub(r"[^A-Za-z0-9.\-\[\]]", "_", target)


def find_token(address: str) -> FoundToken | None:
    """Looks for the token of one control plane: `client.token`, `client.token_file`, the saved one.

    Raises:
        ConfigurationError: A file named by the settings, or the saved one, cannot be read or holds no token.
    """
    from heliograph.config import config

    settings = config().client
    if settings.token:
        return FoundToken(check_token(settings.token, "the setting client.token"), "client.token")
    if settings.token_file:
        path = Path(settings.token_file).expanduser()
        return FoundToken(_read(path), str(path))
    path = token_path(address)
    if path.exists():
        return FoundToken(_read(path), str(path))
    return None


def save_token(address: str, token: str) -> Path:
    """Keeps a token for one control plane, mode 0600, replacing the one before in one step."""
    path = token_path(address)
    check_token(token, "the token")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    part.replace(path)
    return path


def forget_token(address: str) -> Path | None:
    """Removes the saved token of one control plane. Returns its file, or None when there was none."""
    path = token_path(address)
    try:
        path.unlink()
    except FileNotFoundError:
        return None
    return path


def check_token(token: str, where: str) -> str:
    """Returns a token without white space around it.

    Raises:
        ConfigurationError: It is empty or has characters that no token has. The message does not quote it.
    """
    text = token.strip()
    if not text or not re.fullmatch(r"[\x21-\x7e]{1,4096}", text):
        raise ConfigurationError(
            f"{where} holds no token", hint="a token is one word as `heliograph tokens create` prints it"
        )
    return text


def _read(path: Path) -> str:
    try:
        return check_token(path.read_text("ascii"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigurationError(
            f"cannot read the token file {path}: {reason}", hint="sign in again with `heliograph auth login`"
        ) from error
