"""How far a listing reaches: one project, or all that the caller may see."""

from __future__ import annotations

from heliograph_control_plane import calls
from heliograph_control_plane.store.records import Scope

from . import names
from .backend import own_project


def reach(path: str, parent: str) -> tuple[str, Scope]:
    """Reads `projects/{project}` or the wildcard into a project (empty: all) and what of it the caller may see."""
    project = names.project(path, parent, wildcard=True)
    return own_project(project) if project else "", calls.principal().scope
