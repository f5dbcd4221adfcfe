"""The author's clone of a repository: whether runs would have what its author sees."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from heliograph.exceptions import StorageError
from heliograph.storage.git_client import work_tree
from heliograph.storage.pin import Pin

__all__ = ["checkout_of", "compare"]

_SHOWN = 5


def checkout_of(file: Path) -> Path | None:
    """Returns the folder that is a working copy of a repository and has the file."""
    top = work_tree("rev-parse", "--show-toplevel", folder=file.parent)
    return Path(top.rstrip("\n")).resolve() if top else None


def compare(checkout: Path, contents: Mapping[str, bytes], pin: Pin, needed: Sequence[str]) -> None:
    """Refuses a working copy that differs from a commit.

    Args:
        checkout: The working copy.
        contents: Files of the commit, or of its `subdir`.
        pin: The commit.
        needed: Files that the flow was made of, as they are in the commit's folder.

    Raises:
        StorageError: It has changes that are not committed, or one of the needed files is another in the commit.
    """
    scope = [pin.subdir] if pin.subdir else []
    changed = work_tree("status", "--porcelain", "-z", "--untracked-files=no", "--", *scope, folder=checkout)
    if changed:
        names = [line[3:] for line in changed.split("\0") if line[2:3] == " "]
        raise StorageError(
            f"{checkout} has changes that are not committed: {_few(names)}",
            hint="Runs would not have them. Commit and push them, or put them aside with git stash.",
        )
    head = (work_tree("rev-parse", "HEAD", folder=checkout) or "").strip()
    missing = [path for path in needed if path not in contents]
    differing = [path for path in needed if path in contents and not _same(checkout, pin, path, contents)]
    if not missing and not differing:
        return
    what = f"commit {pin.commit[:12]}" + (f" of {pin.ref}" if pin.ref else "")
    problem = f"{what} has no {_few(missing)}" if missing else f"{what} has another {_few(differing)}"
    untracked = [path for path in missing if not work_tree("ls-files", "--", path, folder=checkout / pin.subdir)]
    if untracked:
        hint = f"Git does not track {_few(untracked)}: add, commit and push."
    elif head != pin.commit and work_tree("merge-base", "--is-ancestor", pin.commit, head, folder=checkout) is not None:
        hint = f"Your commits are not pushed: here is {head[:12]}, there {pin.commit[:12]}. Push them."
    else:
        hint = f"Here is {head[:12]}. Check {pin.ref or pin.commit[:12]} out, or register the branch that you work on."
    raise StorageError(f"the flow was loaded from {checkout}, but {problem} in {pin.url}", hint=hint)


def _same(checkout: Path, pin: Pin, path: str, contents: Mapping[str, bytes]) -> bool:
    """Compares as git does: what it would store, not what line ends a checkout has."""
    full = checkout / pin.subdir / path
    if full.read_bytes() == contents[path]:
        return True
    data = contents[path]
    here = work_tree("hash-object", "--", os.fspath(full), folder=full.parent)
    form = hashlib.sha256 if len(pin.commit) == 64 else hashlib.sha1
    return (here or "").strip() == form(f"blob {len(data)}\0".encode() + data).hexdigest()


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
