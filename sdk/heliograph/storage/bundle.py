"""Makes a bundle of a flow: its source files with a manifest, and a pickle of it where asked for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from heliograph.config import config, home
from heliograph.exceptions import StorageError
from heliograph.storage.archive import pack
from heliograph.storage.collect import BundleReport, Collection, collect, imported_modules, is_marked, project_root
from heliograph.storage.manifest import PICKLE_PATH, BundleFormat, FileEntry, Manifest
from heliograph.storage.requirements import imported_distributions

if TYPE_CHECKING:
    from types import ModuleType

    from heliograph.core.flow import Flow

__all__ = [
    "Bundle",
    "Source",
    "build_bundle",
    "find_source",
    "module_name",
    "not_in_a_file",
    "remarks",
    "report_sizes",
    "search_path",
    "unless_renamed",
]

_PRODUCT = Path(__file__).resolve().parents[1]
_pickling = threading.Lock()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory: manifest, content of the files by path, and the report of what went in."""

    manifest: Manifest
    contents: dict[str, bytes] = field(repr=False)
    report: BundleReport = field(repr=False)

    def archive(self) -> bytes:
        """Returns the files as a tar, the same bytes for the same content."""
        return pack((entry, self.contents[entry.path]) for entry in self.manifest.files)


def build_bundle(
    flow: Flow,
    *,
    project_root: str | os.PathLike[str] | None = None,
    pickle: bool = False,
    flow_file: str | os.PathLike[str] | None = None,
    leave_out: Iterable[Path] = (),
) -> Bundle:
    """Makes the bundle of a flow.

    Args:
        flow: The flow.
        project_root: Folder to take files from; by default found from the flow's file.
        pickle: True to add a pickle, which is what will be loaded: for notebooks and flows that are built from data.
        flow_file: The file that defines the flow; by default found among the imported modules.
        leave_out: Folders and files that hold no source, such as those that the flow's storage writes. The home folder
            and the folders of results are left out always.

    Raises:
        StorageError: If there is no file (and no pickle is asked for), a needed file is ignored, it is too large, or
            the flow cannot be pickled, or it was renamed after it was made (and no pickle is asked for).
        CycleError: If the flow's graph has a cycle.
    """
    from heliograph.engine.graph import compile_flow

    graph_hash = compile_flow(flow).graph_hash()
    if not pickle:
        unless_renamed(flow)
    source = find_source(flow, Path(flow_file).resolve() if flow_file is not None else None)
    if source is None and not pickle:
        raise not_in_a_file(flow)
    root, whole = (None, False) if source is None else _root(source.file, project_root)
    meant = root is not None and (project_root is not None or is_marked(root))
    written = [*leave_out, *_written_folders(flow)]
    collected = _collect(source.file, root, whole, meant, written) if source is not None and root is not None else None
    contents = {path: _read(full) for path, full in collected.files.items()} if collected else {}
    executable = {path for path, full in collected.files.items() if os.access(full, os.X_OK)} if collected else set()
    if pickle:
        contents[PICKLE_PATH] = _pickle(flow, root)
    report = collected.report if collected else BundleReport(how="a pickle alone")
    files = tuple(
        FileEntry(path, hashlib.sha256(data).hexdigest(), len(data), path in executable)
        for path, data in sorted(contents.items())
    )
    report_sizes(report, files)
    entrypoint = source.file.relative_to(root).as_posix() if source is not None and root is not None else ""
    folders = search_path(root, source.file) if source is not None and root is not None else ()
    own = [path for _, path in imported_modules(root)] if root is not None else []
    manifest = Manifest(
        flow=flow.name,
        format=BundleFormat.PICKLE if pickle else BundleFormat.SOURCE,
        entrypoint=entrypoint,
        module=module_name(source.module, entrypoint, folders) if source is not None else "",
        sys_path=folders,
        graph_hash=graph_hash,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        implementation=sys.implementation.name,
        cloudpickle=importlib.metadata.version("cloudpickle") if pickle else "",
        requirements=imported_distributions({*own, source.file}, own_names(own)) if source is not None else {},
        files=files,
        info=remarks(root),
    )
    return Bundle(manifest, contents, report)


def unless_renamed(flow: Flow) -> None:
    """Refuses a flow whose file makes none of its name.

    Raises:
        StorageError: It was renamed.
    """
    made_as = getattr(flow, "_made_as", flow.name)
    if flow.name != made_as:
        raise StorageError(
            f"the flow {made_as!r} was renamed to {flow.name!r} after it was made: its file makes no flow of that name",
            hint=f"Make it under that name, Flow({flow.name!r}), or register it with pickle=True.",
        )


def not_in_a_file(flow: Flow) -> StorageError:
    """Returns the error for a flow that no file has."""
    return StorageError(
        f"the flow {flow.name!r} is not in a file: it was made in a notebook, at a prompt, or inside a function",
        hint="Register it with pickle=True, or move it to a .py file, at the top level.",
    )


@dataclass(frozen=True, slots=True)
class Source:
    """The file that defines a flow, and the module it was loaded as."""

    file: Path
    module: ModuleType | None


def find_source(flow: Flow, given: Path | None) -> Source | None:
    """Finds the module that has the flow, else the file whose code is calling: `flow.register()` at its top level."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        if any(value is flow for value in list(vars(module).values())):
            path = Path(file).resolve()
            if path.is_file() and given in (None, path):
                return Source(path, module)
    if given is not None:
        return Source(given, None)
    frame = sys._getframe()  # noqa: SLF001 (the documented way to look at callers)
    while frame.f_back is not None:
        frame = frame.f_back
        path = Path(frame.f_code.co_filename).resolve()
        if not path.is_relative_to(_PRODUCT) and frame.f_code.co_name == "<module>" and path.is_file():
            if any(value is flow for value in list(frame.f_globals.values())):
                return Source(path, sys.modules.get(str(frame.f_globals.get("__name__"))))
            return None
    return None


def _root(file: Path, given: str | os.PathLike[str] | None) -> tuple[Path, bool]:
    return project_root(file, Path(given).expanduser() if given is not None else None)


def _written_folders(flow: Flow) -> Iterator[Path]:
    """Yields where this product writes on this machine: what is there is data, or credentials."""
    from heliograph.engine.results import LocalResult, default_results_dir

    yield home()
    yield Path(default_results_dir())
    for result in (flow.result, *(task.result for task in flow.tasks)):
        if isinstance(result, LocalResult):
            yield Path(result.dir)


def _collect(file: Path, root: Path, whole: bool, meant: bool, written: list[Path]) -> Collection:
    collected = collect(file, root, whole, meant=meant, leave_out=written)
    limit = config().storage.hard_limit_bytes
    total = 0
    for path, full in collected.files.items():
        total += full.stat().st_size
        if total > limit:
            raise StorageError(
                f"the files of {root} are larger than {limit:,} bytes; {path} is one of the last of "
                f"{len(collected.files)}",
                hint="Leave data out in .heliographignore, or raise the setting storage.hard_limit_bytes.",
            )
    return collected


def report_sizes(report: BundleReport, files: tuple[FileEntry, ...]) -> None:
    """Writes into the report how large the bundle is, and warns of a large one."""
    report.files = len(files)
    report.size_bytes = sum(entry.size for entry in files)
    largest = sorted(files, key=lambda entry: entry.size, reverse=True)[:3]
    report.largest = [(entry.path, entry.size) for entry in largest]
    soft = config().storage.soft_limit_bytes
    if report.size_bytes > soft:
        report.warnings.append(
            f"the bundle has {report.size_bytes:,} bytes, more than {soft:,}: is there data in it? "
            ".heliographignore leaves files out"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def search_path(root: Path, file: Path) -> tuple[str, ...]:
    """Returns the folders of the project that Python searches here, the flow's own first as in `python flow.py`."""
    folders = [file.parent]
    for entry in sys.path:
        folder = Path(entry).resolve() if entry else Path.cwd().resolve()
        if folder.is_relative_to(root) and not _PRODUCT.is_relative_to(folder / "heliograph") and folder.is_dir():
            folders.append(folder)
    folders.append(root)
    relative = [folder.relative_to(root).as_posix() for folder in folders]
    kept = [part for part in relative if not {"site-packages", "dist-packages"} & set(part.split("/"))]
    return tuple(dict.fromkeys("" if part == "." else part for part in kept))


def module_name(module: ModuleType | None, entrypoint: str, folders: tuple[str, ...]) -> str:
    """Returns the name under which the file was imported, or would be where it was run as a script."""
    if module is not None and module.__name__ != "__main__":
        name = module.__name__
        if any(_path_of(name, folder) == entrypoint for folder in folders):
            return name
    spec = getattr(module, "__spec__", None)
    if spec is not None and any(_path_of(spec.name, folder) == entrypoint for folder in folders):
        return str(spec.name)  # python -m package.module
    return re.sub(r"\W", "_", Path(entrypoint).stem)


def _path_of(name: str, folder: str) -> str:
    path = name.replace(".", "/") + ".py"
    return f"{folder}/{path}" if folder else path


def own_names(files: list[Path]) -> frozenset[str]:
    return frozenset(part for path in files for part in (path.stem, path.parent.name))


def _pickle(flow: Flow, root: Path | None) -> bytes:
    import cloudpickle

    try:
        with _by_value(root):
            data: bytes = cloudpickle.dumps(flow)
    except Exception as error:  # boundary: pickling calls the user's own methods
        raise StorageError(
            f"the flow {flow.name!r} cannot be pickled: {type(error).__name__}: {error}",
            hint="Make what cannot be pickled (connections, locks, open files) inside tasks.",
        ) from error
    return data


@contextmanager
def _by_value(root: Path | None) -> Iterator[None]:
    """Makes cloudpickle put the project's own modules into the pickle: they are not installed where it is loaded."""
    import cloudpickle

    modules = [module for module, _ in imported_modules(root) if module.__name__ != "__main__"] if root else []
    with _pickling:  # cloudpickle's registry belongs to the process
        known = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in modules if module.__name__ not in known]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


def remarks(root: Path | None) -> dict[str, str]:
    """Returns what a manifest says for people."""
    told = {
        "python": platform.python_version(),
        "platform": sys.platform,
        "heliograph": importlib.metadata.version("heliograph"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if root is not None:
        told["root"] = root.name
    return told
