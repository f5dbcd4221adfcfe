"""The location of storage whose content is a commit: which repository, which commit, and how its files become a bundle.

`https://git.example.org/shop/flows.git#commit=4f0c…&ref=main&path=orders.py&flow=orders`: a repository has no place for
a manifest or launch settings, so their public parts stand in the location. Nothing in it is a value, code or a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

from heliograph.exceptions import BundleChangedError, StorageError
from heliograph.storage.launch import LaunchSettings

__all__ = ["Pin", "is_commit", "location_launch"]

MAX_LOCATION_BYTES = 1024
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TEXTS = ("commit", "ref", "subdir", "path", "module", "flow", "user", "root")
_NUMBERS = {"cpu_millis": "cpu", "memory_bytes": "memory", "start_timeout_seconds": "start"}
_WORDS = {"launcher": "launcher", "image": "image", "failure_text": "failure", "log_mode": "logs"}
_LISTS = {"labels": "labels", "from_agent": "agent"}


def is_commit(text: str) -> bool:
    """Returns True for the whole name of a commit, not a branch or a shortened one."""
    return _COMMIT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Pin:
    """What a location says.

    Attributes:
        url: The repository, without credentials.
        commit: The commit; empty when the newest of `ref` is meant.
        ref: Branch or tag that the commit was found by.
        subdir: Folder of the repository that is the bundle; empty means all of it.
        path: The flow's file in the bundle.
        module: Dotted name under which that file is imported.
        flow: Name of the flow.
        user: User name of `ssh://` addresses.
        root: Path that is the server's own in the address of a repository's page, where nothing else tells.
        sys_path: Folders of the bundle that are on `sys.path`; empty text is the root.
        launch: The public part of the launch settings.
    """

    url: str
    commit: str = ""
    ref: str = ""
    subdir: str = ""
    path: str = ""
    module: str = ""
    flow: str = ""
    user: str = ""
    root: str = ""
    sys_path: tuple[str, ...] = ("",)
    launch: LaunchSettings = field(default_factory=LaunchSettings)

    def location(self) -> str:
        """Returns the location.

        Raises:
            StorageError: If it is too long to be told.
        """
        said: dict[str, str] = {name: quote(getattr(self, name), safe="/") for name in _TEXTS}
        said["sys"] = "" if self.sys_path == ("",) else _list(self.sys_path)
        for name, short in _WORDS.items():
            said[short] = quote(getattr(self.launch, name), safe="/:@")
        for name, short in _NUMBERS.items():
            said[short] = str(getattr(self.launch, name) or "")
        for name, short in _LISTS.items():
            said[short] = _list(getattr(self.launch, name))
        text = f"{self.url}#{'&'.join(f'{name}={value}' for name, value in said.items() if value)}"
        if len(text.encode()) > MAX_LOCATION_BYTES:
            raise StorageError(
                f"what the location must say has {len(text.encode())} bytes; the limit is {MAX_LOCATION_BYTES}",
                hint="Shorten paths, labels or names, or use storage that holds files, such as S3.",
            )
        return text

    @classmethod
    def parse(cls, location: str) -> Pin:
        """Reads a location.

        Raises:
            StorageError: If it is malformed.
        """
        url, _, rest = location.partition("#")
        said: dict[str, str] = {}
        for part in rest.split("&") if rest else ():
            name, _, value = part.partition("=")
            said[name] = value
        known = {*_TEXTS, "sys", *_WORDS.values(), *_NUMBERS.values(), *_LISTS.values()}
        if not url or said.keys() - known:
            raise StorageError(
                f"{url!r} is no location of a repository, or of a newer format", hint="Upgrade heliograph here."
            )
        try:
            pin = cls(
                url=url,
                **{name: unquote(said.get(name, "")) for name in _TEXTS},
                sys_path=_items(said["sys"]) if "sys" in said else ("",),
                launch=_launch(said),
            )
        except ValueError as error:
            raise StorageError(f"the location of a repository is malformed: {error}") from error
        if pin.commit and not is_commit(pin.commit):
            raise StorageError(f"{pin.commit!r} is not the whole name of a commit")
        for path in (pin.subdir, pin.path, pin.root, *pin.sys_path):
            if path and any(part in ("", ".", "..") for part in path.split("/")):
                raise StorageError(f"{path!r} is no path below a repository's root")
        return pin

    def at(self, commit: str) -> Pin:
        """Returns the same of another commit."""
        return replace(self, commit=commit)


def location_launch(location: str, digest: str) -> LaunchSettings:
    """Returns the public part of launch settings, which a location says.

    Raises:
        BundleChangedError: They are not those that were registered.
        StorageError: The location is malformed.
    """
    settings = Pin.parse(location).launch
    if settings.digest != digest:
        raise BundleChangedError(
            f"the launch settings were registered with {digest}, the location's have {settings.digest}",
            hint="Register the flow again.",
        )
    return settings


def _launch(said: Mapping[str, str]) -> LaunchSettings:
    values: dict[str, Any] = {name: unquote(said.get(short, "")) for name, short in _WORDS.items()}
    values |= {name: int(said.get(short) or 0) for name, short in _NUMBERS.items()}
    values |= {name: _items(said[short]) if short in said else () for name, short in _LISTS.items()}
    # The ledger's default: at home on the machine of the run.
    return LaunchSettings(ledger={"kind": "local", "dir": ""}, **values)


def _list(items: tuple[str, ...]) -> str:
    # An empty text is written as a full stop, which no path, label or name is.
    return ",".join(quote(item, safe="/") or "." for item in items)


def _items(text: str) -> tuple[str, ...]:
    return tuple("" if item == "." else unquote(item) for item in text.split(","))
