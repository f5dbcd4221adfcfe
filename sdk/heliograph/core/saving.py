"""Flows in files: a pickle with the versions that made it."""

from __future__ import annotations

import pickle
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliograph.exceptions import LoadError, PythonMismatchError

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

_SUFFIX = ".heliograph"


def save(flow: Flow, path: str | Path | None = None) -> str:
    """Writes a flow into a file; see `Flow.save`."""
    import cloudpickle

    from heliograph.utilities.files import write_atomically

    target = _default_path(flow.name) if path is None else Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {"flow": cloudpickle.dumps(flow), "versions": _versions()}
    write_atomically(target, pickle.dumps(content))
    return str(target)


def load(path: str | Path) -> Flow:
    """Reads a flow from a file; see `Flow.load`."""
    from heliograph.core.flow import Flow

    source = Path(path)
    if not source.is_absolute() and not source.exists():
        source = _default_path(str(path).removesuffix(_SUFFIX))
    try:
        content: Any = pickle.loads(source.read_bytes())
    except OSError as error:
        raise LoadError(f"the flow cannot be read from {source}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, ImportError, AttributeError, IndexError) as error:
        raise LoadError(f"{source} holds no flow that `flow.save()` wrote: {error}") from error
    if not isinstance(content, dict) or not {"flow", "versions"} <= content.keys():
        raise LoadError(f"{source} holds no flow that `flow.save()` wrote")
    there, here = content["versions"], _versions()
    if there["python"] != here["python"]:
        raise PythonMismatchError(
            f"{source} was made by Python {there['python']}, and this is {here['python']}",
            hint=f"use Python {there['python']}, or save the flow again with this one",
        )
    flow = pickle.loads(content["flow"])
    if not isinstance(flow, Flow):
        raise LoadError(f"{source} holds a {type(flow).__name__}, not a flow")
    return flow


def _versions() -> dict[str, str]:
    import cloudpickle

    import heliograph

    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "cloudpickle": cloudpickle.__version__,
        "heliograph": heliograph.__version__,
    }


def _default_path(name: str) -> Path:
    from heliograph.config import home

    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "flow"
    return home() / "flows" / f"{slug}{_SUFFIX}"
