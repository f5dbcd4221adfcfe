"""Kinds of results, and what the ledger says of them."""

from __future__ import annotations

import importlib

from heliograph.engine.result import NoResult, Result
from heliograph.engine.results.constant_result import ConstantResult
from heliograph.engine.results.json_result import JSONResult
from heliograph.engine.results.local_result import LocalResult, default_results_dir
from heliograph.engine.results.object_result import AzureResult, GCSResult
from heliograph.engine.results.s3_result import S3Result
from heliograph.engine.results.secret_result import SecretResult
from heliograph.engine.serializers import Serializer
from heliograph.engine.sink import StoredResult
from heliograph.exceptions import ResultStoreError

__all__ = [
    "AzureResult",
    "ConstantResult",
    "GCSResult",
    "JSONResult",
    "LocalResult",
    "NoResult",
    "Result",
    "S3Result",
    "SecretResult",
    "default_results_dir",
    "describe",
    "open_stored",
]

_HERE = "heliograph.engine.results"
_SERIALIZERS = "heliograph.engine.serializers"


def describe(result: Result, size: int | None = None, *, reason: str = "") -> StoredResult:
    """Returns where a result is kept, or why it is not: what the ledger records and a run prints.

    Args:
        result: What `write` returned, or a result that was not written.
        size: Bytes written; by default what the result knows itself.
        reason: Why it was not kept; by default said from the result's kind.
    """
    kind = _dotted(type(result))
    if not result.stores or not isinstance(result.location, str) or reason:
        return StoredResult(None, kind=kind, reason=reason or _why_not(result))
    return StoredResult(
        result.location,
        kind=kind,
        serializer=_dotted(type(result.serializer)),
        size_bytes=result.size_bytes if size is None else size,
        config=result.describe_config(),
    )


def open_stored(stored: StoredResult) -> Result:
    """Reads a result again from its description, without the flow: for `results ls` and its like.

    Only kinds and serializers of this package are opened; a description never makes other code run. The default
    serializer loads a pickle: open only descriptions from a ledger that you trust as much as the results.

    Raises:
        ResultStoreError: If it was not kept, is of a kind that only the flow's own code can read, or cannot be read.
    """
    if stored.location is None:
        raise ResultStoreError(f"the result was not kept: {stored.reason}")
    serializer = _serializer(stored.serializer)
    if stored.kind == f"{_HERE}.LocalResult":
        return LocalResult(dir=stored.config.get("dir"), serializer=serializer).read(stored.location)
    if stored.kind == f"{_HERE}.S3Result":
        options = {name: text for name, text in stored.config.items() if name in ("endpoint_url", "region_name")}
        result = S3Result(stored.config.get("bucket", ""), boto3_kwargs=options, serializer=serializer)
        return result.read(stored.location)
    if stored.kind == f"{_HERE}.GCSResult":
        return GCSResult(stored.config.get("bucket"), serializer=serializer).read(stored.location)
    if stored.kind == f"{_HERE}.AzureResult":
        account, secret = stored.config.get("account_url"), stored.config.get("secret")
        blobs = AzureResult(
            stored.config.get("container", ""), None, secret, account_url=account, serializer=serializer
        )
        return blobs.read(stored.location)
    raise ResultStoreError(f"only the flow's own code can read a {stored.kind}; it is at {stored.location}")


def _serializer(dotted: str) -> Serializer | None:
    module, _, name = dotted.rpartition(".")
    if not dotted:
        return None
    kind = getattr(importlib.import_module(_SERIALIZERS), name, None) if module == _SERIALIZERS else None
    try:
        if isinstance(kind, type) and issubclass(kind, Serializer):
            return kind()
    except TypeError:  # a serializer with options, which the description does not hold
        pass
    raise ResultStoreError(f"only the flow's own code can read what {dotted} wrote")


def _dotted(kind: type) -> str:
    module = kind.__module__
    if module.startswith(f"{_HERE}."):
        module = _HERE
    return f"{module}.{kind.__qualname__}"


def _why_not(result: Result) -> str:
    if isinstance(result, ConstantResult):
        return "a constant is part of the flow's code"
    if isinstance(result, SecretResult):
        return "a secret is never kept"
    if isinstance(result, JSONResult):
        return "a parameter's value is given with each run"
    return "the result was not written" if result.stores else "no result is configured"
