"""Serializers: how a result's value becomes bytes and comes back.

Two serializers are equal when they are of one type and have the same options; so are results that differ in nothing
else.
"""

# ruff: noqa: ARG002 (one interface for all kinds; not each needs every argument)

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "CompressedSerializer",
    "DateTimeSerializer",
    "JSONSerializer",
    "PandasSerializer",
    "PickleSerializer",
    "Serializer",
]


class Serializer:
    """Base of all serializers: subclasses have `serialize` and `deserialize`, inverse to each other."""

    def serialize(self, value: Any) -> bytes:
        """Returns `value` as bytes. Any exception means that the value cannot be kept this way."""
        raise TypeError(f"{type(self).__name__} does not say how to serialize")

    def deserialize(self, value: bytes) -> Any:
        """Returns the value that `serialize` made `value` from."""
        raise TypeError(f"{type(self).__name__} does not say how to deserialize")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"<Serializer: {type(self).__name__}>"


class PickleSerializer(Serializer):
    """Any Python value, with cloudpickle. Read only what you or your own flows wrote: loading a pickle runs code."""

    def serialize(self, value: Any) -> bytes:
        """Returns a cloudpickle of `value`."""
        import cloudpickle

        data: bytes = cloudpickle.dumps(value)
        return data

    def deserialize(self, value: bytes) -> Any:
        """Loads the pickle."""
        import pickle

        return pickle.loads(value)


class JSONSerializer(Serializer):
    """Values that JSON knows, as UTF-8 text."""

    def serialize(self, value: Any) -> bytes:
        """Returns `value` as JSON."""
        return json.dumps(value).encode()

    def deserialize(self, value: bytes) -> Any:
        """Parses JSON."""
        return json.loads(value)


class DateTimeSerializer(Serializer):
    """A `datetime` as ISO 8601 text; its zone is kept as an offset."""

    def serialize(self, value: datetime) -> bytes:
        """Returns the text of `value`."""
        return value.isoformat().encode()

    def deserialize(self, value: bytes) -> datetime:
        """Parses the text."""
        from datetime import datetime

        return datetime.fromisoformat(value.decode())


class PandasSerializer(Serializer):
    """A pandas data frame, by any pair of `DataFrame.to_X` and `pandas.read_X`.

    Args:
        file_type: The `X`: `csv`, `parquet`, `json`, `pickle`, …
        serialize_kwargs: Passed to `to_X`.
        deserialize_kwargs: Passed to `read_X`.

    Raises:
        ValueError: If pandas has no such pair.
    """

    def __init__(
        self,
        file_type: str,
        serialize_kwargs: dict[str, Any] | None = None,
        deserialize_kwargs: dict[str, Any] | None = None,
    ) -> None:
        import pandas as pd

        self.file_type = file_type
        self.serialize_kwargs = dict(serialize_kwargs or {})
        self.deserialize_kwargs = dict(deserialize_kwargs or {})
        for owner, name in ((pd.DataFrame, f"to_{file_type}"), (pd, f"read_{file_type}")):
            if not hasattr(owner, name):
                raise ValueError(f"pandas cannot keep a data frame as {file_type!r}: it has no {name}")

    def serialize(self, value: Any) -> bytes:
        """Returns the data frame in the file type."""
        writer = getattr(value, f"to_{self.file_type}")
        binary = io.BytesIO()
        try:
            writer(binary, **self.serialize_kwargs)
        except TypeError:  # some text formats refuse a binary buffer
            text = io.StringIO()
            writer(text, **self.serialize_kwargs)
            return text.getvalue().encode()
        return binary.getvalue()

    def deserialize(self, value: bytes) -> Any:
        """Reads a data frame of the file type."""
        import pandas as pd

        reader = getattr(pd, f"read_{self.file_type}")
        try:
            return reader(io.BytesIO(value), **self.deserialize_kwargs)
        except TypeError:
            return reader(io.StringIO(value.decode()), **self.deserialize_kwargs)


class CompressedSerializer(Serializer):
    """Another serializer's bytes, compressed.

    Args:
        serializer: Makes the bytes.
        format: Name of a module with `compress` and `decompress`: `bz2`, `gzip`, `lzma`, `zlib`, or one you installed.
            Excludes `compress` and `decompress`.
        compress: Function from bytes to bytes.
        decompress: Its inverse.
        compress_kwargs: Passed to `compress`.
        decompress_kwargs: Passed to `decompress`.

    Raises:
        ValueError: If there is neither a format nor both functions, or a format and functions.
    """

    def __init__(
        self,
        serializer: Serializer,
        format: str | None = None,
        compress: Callable[..., bytes] | None = None,
        decompress: Callable[..., bytes] | None = None,
        compress_kwargs: dict[str, Any] | None = None,
        decompress_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if format is not None:
            if compress is not None or decompress is not None:
                raise ValueError("give a format, or compress and decompress, not both")
            module = importlib.import_module(format)
            try:
                compress, decompress = module.compress, module.decompress
            except AttributeError:
                raise ValueError(f"the module {format!r} has no compress and decompress") from None
        if compress is None or decompress is None:
            raise ValueError("give a format, or both compress and decompress")
        self.serializer = serializer
        self.compress = compress
        self.decompress = decompress
        self.compress_kwargs = dict(compress_kwargs or {})
        self.decompress_kwargs = dict(decompress_kwargs or {})

    def serialize(self, value: Any) -> bytes:
        """Serializes, then compresses."""
        return self.compress(self.serializer.serialize(value), **self.compress_kwargs)

    def deserialize(self, value: bytes) -> Any:
        """Decompresses, then deserializes."""
        return self.serializer.deserialize(self.decompress(value, **self.decompress_kwargs))
