"""The control plane's store: SQLite embedded, or PostgreSQL."""
