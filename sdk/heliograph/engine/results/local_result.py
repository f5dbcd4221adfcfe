"""Results in files of this machine, written whole or not at all."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from heliograph.config import config, home
from heliograph.engine.result import Location, Result, literal_prefix
from heliograph.engine.serializers import Serializer
from heliograph.exceptions import ResultStoreError
from heliograph.utilities.files import write_atomically

__all__ = ["LocalResult", "default_results_dir"]


def default_results_dir() -> str:
    """Returns the folder of local results when none is given: the setting `results.dir`, or `results` at home."""
    return str(Path(config().results.dir or home() / "results").expanduser().absolute())


def default_location() -> str:
    """Returns a new location, unlike any other, in a folder of today (UTC)."""
    return f"{datetime.now(UTC):%Y/%m/%d}/{uuid.uuid4().hex}.result"


class LocalResult(Result):
    """A result in a file.

    Args:
        dir: Folder of all locations; by default the setting `results.dir`. Sub-folders are created.
        location: Path below `dir`, or a template of one. What fills a template cannot lead out of `dir`; a template
            that starts with an absolute path stays in the folder its author wrote before the first variable.
        validate_dir: False skips the check that `dir` can be a folder.
        serializer: How the value becomes bytes; cloudpickle when not given.

    Raises:
        ResultStoreError: If `dir` is a file.
    """

    stores: ClassVar[bool] = True

    def __init__(
        self,
        dir: str | os.PathLike[str] | None = None,
        validate_dir: bool = True,
        location: Location | None = None,
        serializer: Serializer | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(value, location, serializer)
        self.dir = default_results_dir() if dir is None else str(Path(dir).expanduser().absolute())
        if validate_dir and Path(self.dir).exists() and not Path(self.dir).is_dir():
            raise ResultStoreError(f"{self.dir} is not a folder")

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Writes the value to its file; `location` of what is returned is the absolute path."""
        path = self._path(self.location, kwargs) if self.location is not None else Path(self.dir, default_location())
        data = self._serialize(value_)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except (OSError, ValueError) as error:
            raise ResultStoreError(f"the result cannot be written to {path}: {error}") from error
        return self._with(value_, str(path), len(data))

    def read(self, location: str) -> Result:
        """Reads the file at `location`, an absolute path or one below `dir`."""
        path = self._path_of(location)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ResultStoreError(f"there is no result at {path}") from error
        except (OSError, ValueError) as error:
            raise ResultStoreError(f"the result cannot be read from {path}: {error}") from error
        return self._with(self._deserialize(data, str(path)), str(path), len(data))

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True when the file is there."""
        path = self._path(location, kwargs)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError) as error:
            raise ResultStoreError(f"it cannot be told whether there is a result at {path}: {error}") from error
        return path.is_file()

    def describe_config(self) -> dict[str, str]:
        """Returns the folder."""
        return {"dir": self.dir}

    def _path(self, template: Any, variables: dict[str, Any]) -> Path:
        base = self.dir
        if isinstance(template, str):
            prefix = literal_prefix(template)
            if Path(prefix).is_absolute():  # the author chose this folder; variables cannot lead out of it
                base = str(Path(prefix).parent) if not prefix.endswith(("/", os.sep)) else prefix
        return _inside(base, self._render(template, variables))

    def _path_of(self, location: str) -> Path:
        return Path(location) if Path(location).is_absolute() else _inside(self.dir, location)


def _inside(base: str, location: str) -> Path:
    """Joins, without following links: a link that the user put below `base` is the user's own choice."""
    if not location or "\0" in location:
        raise ResultStoreError(f"{location!r} is no path of a result")
    base = os.path.normpath(base)
    path = os.path.normpath(os.path.join(base, location))  # noqa: PTH118 (lexical on purpose)
    if not path.startswith(base.rstrip(os.sep) + os.sep):
        raise ResultStoreError(f"the location {location!r} leads out of the folder {base}", hint="Give another `dir`.")
    return Path(path)
