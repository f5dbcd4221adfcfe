"""Tokens, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to issue.

    Attributes:
        principal: `users/{user}` or `services/{service}`.
        roles: Numbers of `heliograph.api.v1.Role`.
        projects: Bare names; empty means all.
        secret_hash: SHA-256 of the secret; the store never sees the secret.
        expire_micros: 0 means never.
    """

    principal: str
    roles: tuple[int, ...]
    projects: tuple[str, ...]
    secret_hash: bytes
    expire_micros: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Token:
    """A credential of a named user or service, without its secret."""

    token_id: str
    principal: str
    roles: tuple[int, ...]
    projects: tuple[str, ...]
    create_micros: int
    expire_micros: int
    last_used_micros: int
    revoke_micros: int
    created_by: str


@dataclass(frozen=True, slots=True)
class RunPrincipal:
    """What a run token stands for.

    Attributes:
        epoch: The epoch that the token is bound to.
        ended: The run is finished or leased anew: only reports (which the epoch fences, and which may repeat the last
            batch) and late log lines are welcome, for 10 minutes; nothing else may be done with the token.
    """

    run_id: str
    project: str
    epoch: int
    ended: bool
