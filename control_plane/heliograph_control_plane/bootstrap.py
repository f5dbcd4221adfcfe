"""The first token of an empty store: an administrator's, left in a file that only the server's user can read."""

from __future__ import annotations

import os
from pathlib import Path

from heliograph.api.v1 import options_pb2
from heliograph_control_plane.principals import make_secret, token_text
from heliograph_control_plane.store.interface import Store
from heliograph_control_plane.store.records import NewToken, RequestKey, Token

FILE_NAME = "admin.token"
PRINCIPAL = "users/admin"
CREATOR = "control-plane"


async def ensure_admin_token(store: Store, data_dir: Path) -> Path | None:
    """Issues the first token when the store has none, or when the first was never used and its file is lost.

    Returns:
        The file that holds a token that was never seen elsewhere, or None when there is none.
    """
    path = data_dir / FILE_NAME
    tokens = (await store.list_tokens(2, "")).items
    if tokens and not (_is_unused_first(tokens) and not path.exists()):
        return path if path.exists() else None
    secret, digest = make_secret()
    new = NewToken(PRINCIPAL, (options_pb2.ROLE_ADMIN,), (), digest, 0, CREATOR)
    # The same request again replaces the secret: a crash before the file was written costs nothing.
    token = await store.create_token(new, RequestKey(f"CreateToken/{CREATOR}", FILE_NAME, b"first"))
    write_secret_file(path, token_text(token.token_id, secret) + "\n")
    return path


def _is_unused_first(tokens: tuple[Token, ...]) -> bool:
    return len(tokens) == 1 and tokens[0].created_by == CREATOR and not tokens[0].last_used_micros


def write_secret_file(path: Path, text: str) -> None:
    """Writes a file with mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
