"""What records of all kinds need: whose projects, which page, which request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Scope: TypeAlias = frozenset[str] | None
"""Names of the projects that the caller may see; None means all of them."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing. `next_token` is empty on the last one."""

    items: tuple[T, ...]
    next_token: str = ""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Identity of one intent of one client.

    Attributes:
        scope: Whose id it is and for which method (`CreateFlowRun/users/ann`): ids of others never match.
        request_id: Made by the client.
        fingerprint: Digest of the request's content; the same id with another one raises `RequestIdReusedError`.
    """

    scope: str
    request_id: str
    fingerprint: bytes
