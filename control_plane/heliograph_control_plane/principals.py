"""Who calls: the principal that a token stands for, and the text form of tokens.

A token is `hg_<id>_<secret>`. The id of a run token names the run and the epoch that it is bound to
(`run-<uuid without dashes>-<epoch>`), that of a start code too (`start-…`); other ids are the store's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from dataclasses import dataclass

from heliograph.api.v1 import options_pb2

READERS = frozenset(
    {options_pb2.ROLE_ADMIN, options_pb2.ROLE_AUTHOR, options_pb2.ROLE_OPERATOR, options_pb2.ROLE_VIEWER}
)
"""The roles that may look at the server itself: health, reflection, channelz."""

_TOKEN = re.compile(r"hg_([0-9A-Za-z.\-]{1,80})_([0-9A-Za-z]{32,128})")
_RUN_ID = re.compile(r"run-([0-9a-f]{32})-([1-9][0-9]{0,18})")
_START_ID = re.compile(r"start-([0-9a-f]{32})-([1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Credential:
    """What a token's text says: its id and the SHA-256 of its secret."""

    token_id: str
    digest: bytes

    @property
    def run(self) -> tuple[str, int] | None:
        """Run id and epoch that a run token claims to be bound to; None for other tokens."""
        return _bound_to(_RUN_ID.fullmatch(self.token_id))

    @property
    def start(self) -> tuple[str, int] | None:
        """Run id and epoch that a start code claims to be bound to; None for tokens."""
        return _bound_to(_START_ID.fullmatch(self.token_id))


def _bound_to(match: re.Match[str] | None) -> tuple[str, int] | None:
    return (str(uuid.UUID(match[1])), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run token is bound to. `ended`: the lease is over; late reports and log lines may still come."""

    run_id: str
    epoch: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a verified token.

    Attributes:
        name: `users/ann`, `services/ci`, or the name of the run.
        roles: Numbers of `Role`.
        projects: Names of the projects it is limited to; empty means all.
        token_id: The token's id.
        expire_micros: When the token ends, in microseconds since 1970; 0 means never.
        run: Set for run tokens and start codes.
    """

    name: str
    roles: frozenset[int]
    projects: frozenset[str]
    token_id: str
    expire_micros: int = 0
    run: RunIdentity | None = None

    @property
    def scope(self) -> frozenset[str] | None:
        """The projects that it may see; None means all of them."""
        return self.projects or None

    def may_see(self, project: str) -> bool:
        """True when the token reaches into `project`."""
        return not self.projects or project in self.projects

    def has(self, role: int) -> bool:
        """True when the token carries `role`."""
        return role in self.roles


def make_secret() -> tuple[str, bytes]:
    """Makes a secret of 256 random bits; returns its text, shown once, and its digest, which is stored."""
    secret = secrets.token_hex(32)
    return secret, digest_of(secret)


def repeatable_secret(key: bytes, *what: str) -> tuple[str, bytes]:
    """Makes the secret that belongs to `what`: the same again for the same key, of which nothing can be learnt."""
    # Parted by what no name contains, so that no two callers' words run into the same text.
    secret = hmac.new(key, "\x00".join(what).encode(), hashlib.sha256).hexdigest()
    return secret, digest_of(secret)


def token_text(token_id: str, secret: str) -> str:
    """The text of a token."""
    return f"hg_{token_id}_{secret}"


def run_token_id(run_id: str, epoch: int) -> str:
    """The id of the token of a run's epoch."""
    return f"run-{uuid.UUID(run_id).hex}-{epoch}"


def start_code_id(run_id: str, epoch: int) -> str:
    """The id of the start code of a run's epoch."""
    return f"start-{uuid.UUID(run_id).hex}-{epoch}"


def parse_token(text: str) -> Credential | None:
    """Reads a token's text; None when it is not of that form."""
    match = _TOKEN.fullmatch(text)
    return Credential(match[1], digest_of(match[2])) if match else None


def digest_of(secret: str) -> bytes:
    """SHA-256 of the secret. Its 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode("ascii")).digest()
