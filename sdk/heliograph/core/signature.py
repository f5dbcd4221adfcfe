"""What a task's `run` may look like, and what its annotations say."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from heliograph.exceptions import FlowError

RESERVED_ARGUMENTS = frozenset({"upstream_tasks", "mapped", "task_args", "flow"})
"""Names that a task call uses itself."""


def check_run_signature(run: Callable[..., Any], what: str) -> inspect.Signature:
    """Returns the signature of `run`.

    Args:
        run: The bound method or function that a task will call.
        what: How messages name it.

    Raises:
        FlowError: It takes `*args`, uses a reserved argument name, is async, or cannot be inspected.
        TypeError: It has positional-only parameters: a task always gets its inputs by name.
    """
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError) as error:
        raise FlowError(
            f"the signature of {what} cannot be inspected, so its inputs are unknown",
            hint="this happens with built-in functions; wrap it: `@task\\ndef my_task(x): return builtin(x)`",
        ) from error
    if inspect.iscoroutinefunction(run):
        raise FlowError(
            f"{what} is an async function, whose call gives a coroutine and no result",
            hint="make it an ordinary function that calls asyncio.run(…)",
        )
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise FlowError(
                f"{what} takes *{parameter.name}: a task's inputs need names, because edges carry values by name",
                hint="take a list, or **kwargs",
            )
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"{what} has the positional-only parameter {parameter.name!r}: a task gets inputs by name")
        if parameter.name in RESERVED_ARGUMENTS and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            raise FlowError(
                f"{what} has an argument named {parameter.name!r}, which a task call uses itself;"
                f" reserved names are {', '.join(sorted(RESERVED_ARGUMENTS))}"
            )
    return signature


def inferred_nout(run: Callable[..., Any]) -> int | None:
    """Returns the number of results that the return annotation promises, or None: `tuple[int, str]` promises two."""
    function = getattr(run, "__func__", run)
    annotation = getattr(function, "__annotations__", {}).get("return")
    if annotation is None:
        return None
    if isinstance(annotation, str):
        if "uple" not in annotation:
            return None
        try:
            annotation = typing.get_type_hints(function).get("return")
        except (NameError, TypeError, AttributeError, SyntaxError):
            return None  # an annotation that only a type checker can resolve promises nothing at run time
    if typing.get_origin(annotation) is not tuple:
        return None
    arguments = typing.get_args(annotation)
    if arguments == ((),) or annotation == tuple[()]:
        return 0
    return None if Ellipsis in arguments else len(arguments)
