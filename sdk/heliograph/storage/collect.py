"""Which files go into a bundle: the project's root, what version control or ignore rules say, and a report of both."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from heliograph.exceptions import StorageError
from heliograph.storage.ignore import DEFAULT_RULES, IgnoreRules
from heliograph.storage.manifest import MAX_FILES, RESERVED

__all__ = ["BundleReport", "Collection", "collect", "imported_modules", "is_marked", "project_root"]

IGNORE_FILE = ".heliographignore"
_MARKERS = ("heliograph.toml", "pyproject.toml", ".git")
_FOREIGN = frozenset({"site-packages", "dist-packages"})
_SHOWN = 5


@dataclass(slots=True)
class BundleReport:
    """What a bundle took and left, for the person who registers.

    Attributes:
        root: Folder that was collected; None for a pickle without source.
        how: How files were chosen.
        files: Number of files.
        size_bytes: Their size.
        largest: The largest files with their sizes.
        dropped: What was left out that a reader could expect, with the reason.
        notes: Remarks.
        warnings: What should be looked at.
    """

    root: Path | None = None
    how: str = ""
    files: int = 0
    size_bytes: int = 0
    largest: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        out = [f"{self.files} files, {self.size_bytes:,} bytes, from {self.root or 'no folder'} ({self.how})"]
        out += [f"  largest: {path} {size:,}" for path, size in self.largest]
        out += [f"  left out: {path} ({reason})" for path, reason in self.dropped[: 4 * _SHOWN]]
        if len(self.dropped) > 4 * _SHOWN:
            out.append(f"  left out: {len(self.dropped) - 4 * _SHOWN} more")
        out += [f"  note: {note}" for note in self.notes]
        out += [f"  warning: {warning}" for warning in self.warnings]
        return out


@dataclass(frozen=True, slots=True)
class Collection:
    """The chosen files, by path below the root, and the report."""

    root: Path
    files: dict[str, Path]
    report: BundleReport


def project_root(flow_file: Path, explicit: Path | None) -> tuple[Path, bool]:
    """Returns the folder to collect, and False when only the flow's file and what it imports may be taken from it.

    The folder is the one given, else the nearest one above the file that has `heliograph.toml`, `pyproject.toml` or
    `.git`, else the file's own. Of a home, temporary or root folder, not everything can be meant.

    Raises:
        StorageError: If the flow's file is not below the folder given.
    """
    flow_file = flow_file.resolve()
    if explicit is not None:
        root = explicit.resolve()
        if not flow_file.is_relative_to(root):
            raise StorageError(
                f"the flow's file {flow_file} is not in the project root {root}",
                hint="Give a project_root that holds the flow's file and all it imports.",
            )
        return root, True
    common = {Path.home().resolve(), Path(tempfile.gettempdir()).resolve(), Path(flow_file.anchor)}
    for folder in flow_file.parents:
        if folder in common:
            break
        if any((folder / marker).exists() for marker in _MARKERS):
            return folder, True
    return flow_file.parent, flow_file.parent not in common


def is_marked(root: Path) -> bool:
    """True for a folder that says of itself that it is a project's."""
    return any((root / marker).exists() for marker in (*_MARKERS, IGNORE_FILE))


def collect(
    flow_file: Path, root: Path, whole: bool = True, *, meant: bool = True, leave_out: Iterable[Path] = ()
) -> Collection:
    """Chooses the files of a bundle.

    In a git work tree, files that git tracks; elsewhere all files but ignored ones. `.heliographignore` in the root
    counts in both. The flow's file and modules that it really imported are always needed: they are taken though git
    does not track them yet, and a rule that leaves one out is an error.

    Args:
        flow_file: The file that defines the flow.
        root: The folder.
        whole: False to take the needed files only.
        meant: False where nobody said that the folder is a project's: files that are not needed are warned of.
        leave_out: Folders and files that this product itself writes, such as the storage's: a bundle in which the
            earlier ones lie would double with every registration.

    Raises:
        StorageError: If an imported module is ignored, or there are too many files.
    """
    report = BundleReport(root=root)
    own = _below(root, leave_out)
    own_rules = IgnoreRules(_lines(root / IGNORE_FILE))
    needed = {path.relative_to(root).as_posix() for path in [flow_file.resolve(), *_imported_files(root)]}
    if not whole:
        chosen = sorted(needed)
        report.how = "the flow's file and the modules it imports"
        report.notes.append(f"{root} is no project's folder: nothing else was taken. A heliograph.toml makes it one.")
    else:
        tracked = _git(root, "ls-files", "-z", "--cached")
        chosen = _tracked(root, tracked, report, own) if tracked is not None else _walk(root, report, own)
        report.dropped.extend((path, "written by Heliograph") for path in sorted(own))
    files: dict[str, Path] = {}
    for path in [*chosen, *sorted(needed.difference(chosen))]:
        full = root / path
        if path.split("/")[0] == RESERVED or not full.is_file():
            continue
        unlisted = path not in chosen and not _is_own(path, own)
        ignored = own_rules.ignores(path) or (unlisted and _ignored_elsewhere(root, path, report))
        if path in needed and ignored:
            raise StorageError(
                f"{path} is imported by the flow, but an ignore rule leaves it out of the bundle",
                hint=f"Take it back in {root / IGNORE_FILE} or .gitignore, or import it from an installed package.",
            )
        if ignored:
            report.dropped.append((path, IGNORE_FILE))
        elif not full.resolve().is_relative_to(root):
            report.dropped.append((path, "a link that leads out of the project"))
        else:
            if whole and path not in chosen:
                report.notes.append(f"{path} is not tracked by git, but imported: it was taken")
            files[path] = full
        if len(files) > MAX_FILES:
            raise StorageError(f"{root} has more than {MAX_FILES} files", hint=f"Leave some out in {IGNORE_FILE}.")
    others = [] if meant or not whole else [path for path in files if path not in needed]
    if others:
        named = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")
        report.warnings.append(
            f"the flow does not import {named}, but {'they were' if len(others) > 1 else 'it was'} taken, as all of"
            f" {root}."
            f" {IGNORE_FILE} leaves files out; a heliograph.toml there says that all are meant"
        )
    return Collection(root, files, report)


def imported_modules(root: Path) -> Iterator[tuple[ModuleType, Path]]:
    """Yields modules that are imported from below `root`, with their files; not installed ones, nor this product."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    product = Path(__file__).resolve().parents[1]
    # An environment in the project's folder: its scripts, such as the command that runs this, are no part of the flow.
    environment = Path(sys.prefix).resolve() if sys.prefix != sys.base_prefix else standard
    root = root.resolve()
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not isinstance(name, str) or not os.path.isabs(name):  # noqa: PTH117 (no object for each of 2,000 modules)
            continue
        if not _real_folder(os.path.dirname(name)).startswith(str(root)):  # noqa: PTH120
            continue
        path = Path(name).resolve()
        if not path.is_relative_to(root) or any(map(path.is_relative_to, (standard, product, environment))):
            continue
        if _FOREIGN.isdisjoint(path.parts) and path.is_file():
            yield module, path


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _imported_files(root: Path) -> set[Path]:
    files = {path for _, path in imported_modules(root)}
    # A package's `__init__.py` is needed by everything in it, even if it was imported as a namespace.
    for path in list(files):
        for folder in path.parents:
            if folder == root or not folder.is_relative_to(root):
                break
            if (folder / "__init__.py").is_file():
                files.add(folder / "__init__.py")
    return {path for path in files if path.suffix != ".pyc"}


def _below(root: Path, paths: Iterable[Path]) -> frozenset[str]:
    """Returns those of the paths that are there and strictly below the root, relative to it."""
    real = {path.resolve() for path in paths if path.exists()}
    return frozenset(path.relative_to(root).as_posix() for path in real if root in path.parents)


def _is_own(path: str, own: frozenset[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in own)


def _tracked(root: Path, tracked: str, report: BundleReport, own: frozenset[str]) -> list[str]:
    report.how = "files that git tracks"
    paths = [path for path in tracked.split("\0") if path and not _is_own(path, own)]
    others = _git(root, "ls-files", "-z", "--others", "--exclude-standard")
    untracked = [path for path in (others or "").split("\0") if path and not _is_own(path, own)]
    if not paths:
        report.how = "files that git does not ignore; it tracks none yet"
        return untracked
    report.dropped.extend((path, "not tracked by git") for path in untracked)
    return sorted(set(paths))


def _walk(root: Path, report: BundleReport, own: frozenset[str]) -> list[str]:
    report.how = "all files but ignored ones"
    rules = IgnoreRules([*DEFAULT_RULES, *_lines(root / ".gitignore"), *_lines(root / IGNORE_FILE)])
    found: list[str] = []
    for parent, folders, names in os.walk(root):
        prefix = Path(parent).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        kept = []
        for name in sorted(folders):
            if prefix + name in own:
                continue  # said once, by the caller
            if rules.ignores(prefix + name, folder=True):
                report.dropped.append((f"{prefix}{name}/", "ignored"))
            elif (Path(parent) / name / "pyvenv.cfg").exists():
                report.dropped.append((f"{prefix}{name}/", "a virtual environment"))
            else:
                kept.append(name)
        folders[:] = kept
        for name in sorted(names):
            if prefix + name in own:
                continue
            if rules.ignores(prefix + name):
                report.dropped.append((prefix + name, "ignored"))
            else:
                found.append(prefix + name)
        if len(found) > MAX_FILES:
            raise StorageError(
                f"{root} has more than {MAX_FILES} files",
                hint=f"Leave some out in {IGNORE_FILE}, or give a smaller project_root.",
            )
    return found


def _ignored_elsewhere(root: Path, path: str, report: BundleReport) -> bool:
    """True when a needed file that was not chosen is ignored, rather than only not tracked yet."""
    if report.how.startswith("all files"):
        return True
    return report.how.startswith("files that git") and _git(root, "check-ignore", "-q", "--no-index", path) is not None


def _git(root: Path, *arguments: str) -> str | None:
    """Runs git; None when the folder is no work tree, git says no, or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "surrogateescape")


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
