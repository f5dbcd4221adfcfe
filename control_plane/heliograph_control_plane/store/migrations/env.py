"""How Alembic runs here: on a connection that `migrate` gives it, never from a configuration file."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None, transactional_ddl=True, version_table="schema_version")
with context.begin_transaction():
    context.run_migrations()
