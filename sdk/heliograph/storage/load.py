"""Loads a flow from the folder of its bundle, after everything that can be checked before its code runs.

`preflight` comes first and executes nothing. `load_flow` then imports the flow's file as a module, through a loader
that hashes the very bytes it executes, so a file that changes after the check is not run. While it loads,
`context.loading_flow` is set: `flow.run()` and `flow.register()` at a module's top level do nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import threading
import warnings
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from heliograph.config import config
from heliograph.context import context
from heliograph.exceptions import (
    GraphMismatchError,
    LoadError,
    PythonMismatchError,
    RequirementsMismatchError,
    StorageError,
)
from heliograph.storage.archive import changed
from heliograph.storage.cache import manifest_of
from heliograph.storage.manifest import PICKLE_PATH, BundleFormat, Manifest
from heliograph.storage.requirements import check_requirements

if TYPE_CHECKING:
    from heliograph.core.flow import Flow

__all__ = ["load_flow", "load_flows", "preflight", "read_manifest"]

read_manifest = manifest_of

_lock = threading.RLock()
_roots: dict[str, Manifest] = {}
"""Folders whose files are imported through `_CheckedLoader`, with their manifests."""


def preflight(manifest: Manifest, *, requirements: str | None = None) -> list[str]:
    """Checks that a bundle can run here, before any of its code does.

    A pickle needs the same minor version of Python, because byte code differs and a wrong one ends in a crash and not
    in an exception; and the same major version of cloudpickle. Source needs the same major version, and at least the
    minor one: Python keeps old code working, but code of a newer one may use what an older one lacks.

    Args:
        manifest: Of the bundle.
        requirements: How distributions are compared; by default the setting `storage.requirements`.

    Returns:
        Warnings.

    Raises:
        PythonMismatchError: Another Python or cloudpickle is needed.
        RequirementsMismatchError: A distribution is missing or too different.
    """
    here = (sys.version_info.major, sys.version_info.minor)
    made = tuple(int(part) for part in manifest.python.split("."))
    shown = f"{here[0]}.{here[1]}"
    if manifest.format is BundleFormat.PICKLE:
        from importlib.metadata import version as installed

        if made != here or manifest.implementation != sys.implementation.name:
            raise PythonMismatchError(
                f"the bundle of {manifest.flow} is a pickle of {manifest.implementation} {manifest.python}; "
                f"here is {sys.implementation.name} {shown}",
                hint=f"Run an agent with Python {manifest.python}, or register with Python {shown}, or without pickle.",
            )
        version = installed("cloudpickle")
        if version.partition(".")[0] != manifest.cloudpickle.partition(".")[0]:
            raise PythonMismatchError(
                f"the bundle of {manifest.flow} is a pickle of cloudpickle {manifest.cloudpickle}; here is {version}",
                hint=f"Install cloudpickle {manifest.cloudpickle} here, or register again with {version}.",
            )
    elif made[:1] != here[:1] or made > here:
        raise PythonMismatchError(
            f"the bundle of {manifest.flow} was made with Python {manifest.python}; here is {shown}, which is older",
            hint=f"Run an agent with Python {manifest.python} or newer, or register with Python {shown}.",
        )
    refused, warned = check_requirements(manifest.requirements, requirements or config().storage.requirements)
    if refused:
        raise RequirementsMismatchError(
            f"what is installed here does not fit the bundle of {manifest.flow}: {'; '.join(refused)}",
            hint="Install these versions for the agent, or register again from its environment, "
            "or set storage.requirements to off.",
        )
    return warned


def load_flow(directory: Path, manifest: Manifest, graph_hash: str | None = None) -> Flow:
    """Returns the flow of a bundle. Runs the user's code.

    Args:
        directory: What `Storage.fetch` returned.
        manifest: Its manifest.
        graph_hash: The registered graph's digest; by default the manifest's.

    Raises:
        BundleChangedError: A file is not the one that was registered.
        LoadError: The code raises, or has no such flow.
        GraphMismatchError: It has another graph, and the setting `storage.graph_check` is `error`.
    """
    directory = directory.resolve()
    with _lock:
        _put_on_path(directory, manifest)
        if manifest.format is BundleFormat.PICKLE:
            flow = _unpickle(directory, manifest)
        else:
            flow = _named(_import(directory, manifest), manifest)
    _compare(flow, manifest, graph_hash or manifest.graph_hash)
    return flow


def load_flows(path: str | os.PathLike[str]) -> list[Flow]:
    """Executes a Python file as a module and returns the flows of its top level, in order, for registering them.

    Raises:
        LoadError: The file cannot be read, or raises.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise LoadError(f"{file} is no file")
    name = file.stem if file.stem.isidentifier() else f"flow_file_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(file):
        name = f"{name}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    with _lock:
        if str(file.parent) not in sys.path:
            sys.path.insert(0, str(file.parent))
        spec = importlib.util.spec_from_file_location(name, file)
        return _flows_of(_execute(spec, f"{file} cannot be loaded"))


def _flows_of(module: ModuleType) -> list[Flow]:
    from heliograph.core.flow import Flow

    found: dict[int, Flow] = {}
    for value in list(vars(module).values()):
        values = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else (value,)
        found.update((id(item), item) for item in values if isinstance(item, Flow))
    return list(found.values())


def _named(module: ModuleType, manifest: Manifest) -> Flow:
    flows = _flows_of(module)
    matching = [flow for flow in flows if flow.name == manifest.flow]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise LoadError(
            f"{manifest.entrypoint} has {len(matching)} flows with the name {manifest.flow!r}",
            hint="Give each flow a name of its own.",
        )
    names = ", ".join(repr(flow.name) for flow in flows) or "none"
    raise LoadError(
        f"{manifest.entrypoint} has no flow with the name {manifest.flow!r} at its top level; there are: {names}",
        hint="Make the flow at the top level of the file, also when it is imported, or register it with pickle=True.",
    )


def _unpickle(directory: Path, manifest: Manifest) -> Flow:
    import pickle

    from heliograph.core.flow import Flow

    data = _checked_bytes(directory / PICKLE_PATH, directory, manifest)
    try:
        with context(loading_flow=True):
            flow = pickle.loads(data)
    except StorageError:
        raise
    except Exception as error:  # boundary: loading a pickle runs the user's code
        raise LoadError(
            f"the pickle of {manifest.flow} cannot be loaded: {type(error).__name__}: {error}",
            hint="A module that it needs is not installed here, or another version of it is.",
        ) from error
    if not isinstance(flow, Flow):
        raise LoadError(f"the pickle of {manifest.flow} holds a {type(flow).__name__}, no flow")
    return flow


def _import(directory: Path, manifest: Manifest) -> ModuleType:
    file = directory / manifest.entrypoint
    if manifest.entrypoint not in manifest.by_path:
        raise LoadError(f"the bundle of {manifest.flow} has no file {manifest.entrypoint!r}")
    name = manifest.module
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    if known is not None or name.partition(".")[0] in sys.stdlib_module_names:
        # The file is named like an installed module. It cannot take its place, so it gets a name of its own.
        name = f"{name.replace('.', '_')}_{manifest.digest[7:15]}"
    if "." in name:
        with context(loading_flow=True):
            try:
                importlib.import_module(name.rpartition(".")[0])
            except StorageError:
                raise
            except Exception as error:  # boundary: the package is the user's code
                raise LoadError(f"{manifest.entrypoint} cannot be loaded: {type(error).__name__}: {error}") from error
    spec = importlib.util.spec_from_file_location(name, file, loader=_CheckedLoader(name, str(file)))
    return _execute(spec, f"{manifest.entrypoint} of {manifest.flow} cannot be loaded")


def _execute(spec: ModuleSpec | None, message: str) -> ModuleType:
    if spec is None or spec.loader is None:
        raise LoadError(f"{message}: it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with context(loading_flow=True), warnings.catch_warnings():
            spec.loader.exec_module(module)
    except StorageError:
        sys.modules.pop(spec.name, None)
        raise
    except (Exception, SystemExit) as error:  # boundary: a module is the user's code, and may call sys.exit()
        sys.modules.pop(spec.name, None)
        raise LoadError(
            f"{message}: {_place(error, spec.origin or '')}{type(error).__name__}: {_text(error)}"
        ) from error
    return module


def _place(error: BaseException, file: str) -> str:
    """Returns `orders.py:12: `, the innermost line of the user's own code that an error came from; or nothing."""
    folder = Path(file).parent
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename), folder)}:{error.lineno}: "
    place = ""
    frames = error.__traceback__
    while frames is not None:
        path = Path(frames.tb_frame.f_code.co_filename)
        if str(path) == file or (path.is_relative_to(folder) and not _INSTALLED.intersection(path.parts)):
            place = f"{_shown(path, folder)}:{frames.tb_lineno}: "
        frames = frames.tb_next
    return place


_INSTALLED = frozenset({"site-packages", "dist-packages"})


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _text(error: BaseException) -> str:
    # What a syntax error says of its place would stand there twice.
    return str(error.msg if isinstance(error, SyntaxError) else error)


def _compare(flow: Flow, manifest: Manifest, registered: str) -> None:
    from heliograph.engine.graph import compile_flow

    loaded = compile_flow(flow).graph_hash()
    if not registered or loaded == registered:
        return
    message = f"the flow {manifest.flow!r} was registered with the graph {registered}, but its code now makes {loaded}"
    if config().storage.graph_check == "warn":
        warnings.warn(message, stacklevel=3)
        return
    raise GraphMismatchError(
        message,
        hint="The graph depends on where or when it is built. Register it with pickle=True, "
        "or set storage.graph_check to warn.",
    )


# --- import of checked bytes -----------------------------------------------------------------------------------------


def _put_on_path(directory: Path, manifest: Manifest) -> None:
    """Puts the bundle's folders first on `sys.path`, and takes away what an earlier bundle of this process left."""
    for old in [root for root in _roots if root != str(directory)]:
        _forget(old)
    # Nothing is written beside the files: the next run would find a file too many. Here the loader sees to that, so
    # that libraries keep their byte code; child processes import as Python does.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    _roots[str(directory)] = manifest
    if _path_hook not in sys.path_hooks:
        sys.path_hooks.insert(0, _path_hook)
    folders = [str(directory / part) if part else str(directory) for part in manifest.sys_path]
    sys.path[:] = [*folders, *(entry for entry in sys.path if entry not in folders)]
    for folder in folders:
        sys.path_importer_cache.pop(folder, None)


def _forget(root: str) -> None:
    _roots.pop(root, None)
    inside = (root, root + os.sep)
    sys.path[:] = [entry for entry in sys.path if entry != root and not entry.startswith(inside[1])]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(inside[1]):
            del sys.modules[name]
    for entry in list(sys.path_importer_cache):
        if entry == root or entry.startswith(inside[1]):
            del sys.path_importer_cache[entry]


def _path_hook(entry: str) -> FileFinder:
    if _root_of(entry) is None:
        raise ImportError("not in a bundle", path=entry)
    return FileFinder(entry, (_CheckedExtensionLoader, EXTENSION_SUFFIXES), (_CheckedLoader, [".py"]))


def _root_of(path: str) -> tuple[Path, Manifest] | None:
    for root, manifest in _roots.items():
        if path == root or path.startswith(root + os.sep):
            return Path(root), manifest
    return None


def _checked_bytes(path: Path, root: Path, manifest: Manifest) -> bytes:
    """Reads a file once, and returns what was read if it is what was registered."""
    relative = path.relative_to(root).as_posix()
    entry = manifest.by_path.get(relative)
    data = b""
    with suppress(OSError):
        data = path.read_bytes()
    if entry is None or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise changed(manifest, relative)
    return data


class _CheckedLoader(SourceFileLoader):
    """Executes a source file of a bundle, from the bytes that were hashed. Byte code is neither read nor written."""

    def get_data(self, path: str) -> bytes:
        found = _root_of(path)
        if found is None or not path.endswith(".py"):
            raise OSError(f"{path} is no source file of the bundle")
        return _checked_bytes(Path(path), *found)

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Writes nothing."""


class _CheckedExtensionLoader(ExtensionFileLoader):
    """Loads a compiled module of a bundle when its file is the one that was registered."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        found = _root_of(self.path)
        if found is not None:
            _checked_bytes(Path(self.path), *found)
        return super().create_module(spec)
