"""Results whose location is their value, as JSON: parameters. Nothing is written anywhere."""

# ruff: noqa: ARG002 (one interface for all kinds; not each needs every argument)

from __future__ import annotations

import json
from typing import Any

from heliograph.engine.result import Result
from heliograph.engine.serializers import JSONSerializer
from heliograph.exceptions import ResultStoreError

__all__ = ["JSONResult"]


class JSONResult(Result):
    """A small JSON value that is its own location. It exists wherever its location is known, and is stored nowhere."""

    def __init__(self, value: Any = None, location: str | None = None) -> None:
        super().__init__(value, location, JSONSerializer())

    def write(self, value_: Any, **kwargs: Any) -> Result:
        """Returns a result whose location is the JSON of the value."""
        data = self._serialize(value_)
        return self._with(value_, data.decode(), len(data))

    def read(self, location: str) -> Result:
        """Returns a result with the value of the JSON text `location`."""
        return self._with(self._deserialize(location.encode(), "a JSON location"), location, len(location))

    def exists(self, location: str, **kwargs: Any) -> bool:
        """Returns True when the text is JSON."""
        try:
            self.read(location)
        except ResultStoreError:
            return False
        return True

    def _render(self, template: Any, kwargs: dict[str, Any]) -> str:
        return json.dumps(template) if not isinstance(template, str) else template
