"""Why a store refuses to open."""

from __future__ import annotations

from heliograph.exceptions import ConfigurationError


class StoreInUseError(ConfigurationError):
    """Another process has this SQLite database open. Exactly one may; use PostgreSQL for more."""


class SchemaMismatchError(ConfigurationError):
    """The database's schema is not the one that this version of the server works with."""
