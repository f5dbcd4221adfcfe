"""Parts that storages are tested on."""

from __future__ import annotations

from tests.support.git_http import git_server
from tests.unit.storage.conftest import clean_imports

__all__ = ["clean_imports", "git_server"]
