"""Page tokens: where a listing goes on, in a form that nobody needs to read."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from heliograph.exceptions import InvalidArgumentError
from heliograph_control_plane.damage import readable
from heliograph_control_plane.store.records import Page

T = TypeVar("T")


def encode_token(*key: str | int) -> str:
    """Makes the token of the page after the row with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_token(token: str, *kinds: type) -> tuple[Any, ...] | None:
    """Returns the key in a token, None for an empty one. Raises InvalidArgumentError for one that is not ours."""
    if not token:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError("the page token cannot be read") from error
    if not (
        isinstance(key, list)
        and len(key) == len(kinds)
        and all(type(part) is kind for part, kind in zip(key, kinds, strict=True))
        and all(not isinstance(part, int) or abs(part) < 1 << 62 for part in key)
    ):
        raise InvalidArgumentError("the page token cannot be read")
    return tuple(key)


def page_of(
    rows: Sequence[Any], size: int, make: Callable[[Any], T], key: Callable[[Any], tuple[str | int, ...]]
) -> Page[T]:
    """Makes a page from up to `size` + 1 rows. It is shorter for rows that cannot be read."""
    more = len(rows) > size
    return Page(tuple(readable(rows[:size], make, key)), encode_token(*key(rows[size - 1])) if more else "")
