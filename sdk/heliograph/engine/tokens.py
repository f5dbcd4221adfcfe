"""Tokens of values: equal values give equal tokens, in this process and in any other.

The cache validators compare inputs by them. Python's own `hash` will not do: it differs between processes, and lists,
frames and arrays have none.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import sys
import uuid
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from fractions import Fraction
from types import CellType, CodeType, MethodType
from typing import Any


def tokenize(*values: Any) -> str:
    """Returns a token of `values`, 32 hex digits.

    Plain values, collections, dataclasses, enums, paths, dates, NumPy arrays and pandas objects are taken by content;
    classes and functions by their place, functions also by their code and the values it uses from outside; other
    objects by a `__heliograph_token__` method, else by their pickle.
    """
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, values, set())
    return digest.hexdigest()


_EMPTY = CellType()
_PLAIN = (
    bool, int, float, complex, type(None), decimal.Decimal, Fraction, uuid.UUID, dt.date, dt.time,
    dt.timedelta, dt.tzinfo, type(...), range, slice,
)  # fmt: skip


def _feed(digest: Any, value: Any, above: set[int]) -> None:
    """Adds `value`. Every part is framed by type and length, so that ("ab", "c") and ("a", "bc") differ."""
    kind = type(value)
    if kind is str:
        _frame(digest, "str", value.encode("utf-8", "surrogatepass"))
    elif kind in (bytes, bytearray):
        _frame(digest, "bytes", bytes(value))
    elif isinstance(value, enum.Enum):
        _frame(digest, "enum", f"{_place(kind)}.{value.name}".encode())
    elif isinstance(value, _PLAIN):
        _frame(digest, _place(kind), repr(value).encode())
    elif id(value) in above:
        _frame(digest, "cycle", b"")
    else:
        above.add(id(value))
        try:
            _feed_compound(digest, value, above)
        finally:
            above.discard(id(value))


def _feed_compound(digest: Any, value: Any, above: set[int]) -> None:
    kind = type(value)
    own = getattr(kind, "__heliograph_token__", None)
    if own is not None:
        _frame(digest, _place(kind), b"")
        _feed(digest, own(value), above)
    elif isinstance(value, list | tuple):
        _frame(digest, _place(kind), len(value).to_bytes(8, "big"))
        for item in value:
            _feed(digest, item, above)
    elif isinstance(value, Mapping):
        pairs = sorted((tokenize(key), tokenize(item)) for key, item in value.items())
        _frame(digest, _place(kind), repr(pairs).encode())
    elif isinstance(value, AbstractSet):
        _frame(digest, _place(kind), repr(sorted(tokenize(item) for item in value)).encode())
    elif isinstance(value, pathlib.PurePath):
        _frame(digest, "path", str(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, type):
        _frame(digest, "class", _place(value).encode())
    elif dataclasses.is_dataclass(value):
        _frame(digest, _place(kind), b"")
        for item in dataclasses.fields(value):
            _feed(digest, (item.name, getattr(value, item.name)), above)
    elif hasattr(value, "__code__"):
        _feed_function(digest, value, above)
    elif not _feed_array(digest, value, above):
        _feed_pickle(digest, value)


def _feed_function(digest: Any, function: Any, above: set[int]) -> None:
    _frame(digest, "function", f"{function.__module__}.{function.__qualname__}".encode())
    _feed_code(digest, function.__code__, above)
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
    _feed(digest, (function.__defaults__, function.__kwdefaults__, cells), above)
    if isinstance(function, MethodType):
        _feed(digest, function.__self__, above)


def _feed_code(digest: Any, code: CodeType, above: set[int]) -> None:
    _frame(digest, "code", code.co_code)
    _feed(digest, code.co_names, above)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a function or comprehension inside; its repr has an address
            _feed_code(digest, constant, above)
        else:
            _feed(digest, constant, above)


def _feed_array(digest: Any, value: Any, above: set[int]) -> bool:
    """Adds NumPy arrays and pandas objects; their modules are loaded already, or it would not be one."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        array = numpy.asarray(value)
        if array.dtype.hasobject:
            _frame(digest, "array", repr((array.dtype.str, array.shape)).encode())
            _feed(digest, array.ravel().tolist(), above)
        else:
            _frame(digest, "array", repr((array.dtype.descr, array.shape)).encode())
            _frame(digest, "data", numpy.ascontiguousarray(array).tobytes())
        return True
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index):
        _frame(digest, _place(type(value)), b"")
        _feed(digest, [str(column) for column in getattr(value, "columns", ())], above)
        _feed(digest, pandas.util.hash_pandas_object(value).to_numpy(), above)
        return True
    return False


def _feed_pickle(digest: Any, value: Any) -> None:
    import cloudpickle

    _frame(digest, _place(type(value)), cloudpickle.dumps(value, protocol=4))


def _frame(digest: Any, kind: str, data: bytes) -> None:
    head = kind.encode()
    digest.update(len(head).to_bytes(4, "big") + head + len(data).to_bytes(8, "big") + data)


def _place(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
