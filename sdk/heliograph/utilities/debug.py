"""Help for finding out why a flow does not do what its author expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from heliograph.context import context

__all__ = ["is_serializable", "raise_on_exception"]


@contextmanager
def raise_on_exception() -> Iterator[None]:
    """In this block `flow.run()` raises the first exception of a task, as the task raised it, for a debugger."""
    with context(raise_on_exception=True):
        yield


def is_serializable(value: Any, raise_on_error: bool = False) -> bool:
    """Tells whether a value survives cloudpickle, as what other processes get must.

    Args:
        value: A flow, a task, a result.
        raise_on_error: True to raise the error instead of returning False.
    """
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(value))
    except Exception:  # the value's own code runs here and may raise anything; that is the answer
        if raise_on_error:
            raise
        return False
    return True
