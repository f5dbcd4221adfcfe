"""Objects in a cloud's bucket or container: the few operations that storage, results and ledgers need."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

from heliograph.exceptions import HeliographError

__all__ = ["Head", "ObjectGoneError", "Objects", "md5_of"]


class ObjectGoneError(Exception):
    """The object is not there; its bucket is."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of an object without reading it.

    Attributes:
        size: Its length.
        md5: MD5 of its bytes; None where the service does not know.
        version: What changes when it is written again.
    """

    size: int
    md5: bytes | None
    version: str

    def holds(self, data: bytes) -> bool:
        """True when the object has these bytes, as far as its head can tell."""
        return self.size == len(data) and (self.md5 is None or self.md5 == md5_of(data))


class Objects(ABC):
    """A bucket or container.

    All methods but `errors` raise what the cloud's own library raises; they are called inside of `errors`.
    """

    @abstractmethod
    def address(self, key: str = "") -> str:
        """Returns what people call an object: `gs://bucket/key`. No credentials."""

    @abstractmethod
    def head(self, key: str) -> Head | None:
        """Looks at an object; None when it is not there."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, over: str | None = "") -> bool:
        """Writes an object; False when something else is there than expected.

        Args:
            key: Its key.
            data: All of its bytes.
            over: Version that is to be there; empty means none, None means any or none.
        """

    @abstractmethod
    def read(self, key: str, target: IO[bytes]) -> None:
        """Reads an object, again from the start of `target` after a connection that broke. Raises ObjectGoneError."""

    @abstractmethod
    def names(self, prefix: str) -> Iterator[str]:
        """Yields the keys that begin so."""

    @abstractmethod
    def errors(self, kind: type[HeliographError], message: str) -> AbstractContextManager[None]:
        """Turns what the cloud's library raises in the block into `kind`, with what to do, and without credentials."""


def md5_of(data: bytes) -> bytes:
    """Returns the MD5 that object stores keep of bytes: against accidents, not attackers."""
    return hashlib.md5(data, usedforsecurity=False).digest()
