"""The control plane's store: SQLite embedded, or PostgreSQL.

`open_store(url)` opens one; `interface.Store` says what it can do; `records` holds what goes in and comes out.
"""

from __future__ import annotations

from heliograph_control_plane.store.interface import Store as Store
from heliograph_control_plane.store.sql_store import SqlStore as SqlStore
from heliograph_control_plane.store.sql_store import migrate_store as migrate_store
from heliograph_control_plane.store.sql_store import open_store as open_store
