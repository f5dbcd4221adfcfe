"""Tests of one `xdist_group` run in one worker: pytest-xdist tells groups by names that pytest 9.2 lets nobody change.

Without this, every worker starts the parts that a group shares. Names of tests stay as they are, so that
`--last-failed` finds what failed in a crowd.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling

_FOLDER = "heliograph_groups"


class Groups(LoadGroupScheduling):
    """Hands out whole groups, as workers told them; what is in no group goes by itself."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._told: dict[str, str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._told is None:  # asked when all workers have collected, and found the same
            told = next(_folder(self.config).glob("*.json"), None)
            self._told = json.loads(told.read_text()) if told else {}
        return self._told.get(nodeid, nodeid)


def _folder(config: pytest.Config) -> Path:
    """Returns where workers tell the groups that they collected. It ends with the controller."""
    if not hasattr(config, "_heliograph_groups"):
        made = tempfile.TemporaryDirectory(prefix="heliograph-groups-")
        config.add_cleanup(made.cleanup)
        config._heliograph_groups = made  # type: ignore[attr-defined]
    return Path(config._heliograph_groups.name)  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups | None:
    """Takes the place of pytest-xdist's own."""
    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a worker where to tell."""
    node.workerinput[_FOLDER] = str(_folder(node.config))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has a worker tell its groups."""
    told = getattr(session.config, "workerinput", {}).get(_FOLDER)
    if told is None:
        return
    groups = {item.nodeid: mark.args[0] for item in session.items if (mark := item.get_closest_marker("xdist_group"))}
    place = Path(told, session.config.workerinput["workerid"])  # type: ignore[attr-defined]
    place.write_text(json.dumps(groups))
    place.rename(place.with_suffix(".json"))
