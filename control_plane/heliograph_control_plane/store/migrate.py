"""Schema versions: what the database has, what this server needs, and the way from one to the other.

A server works with exactly one schema. It makes and mends that of SQLite itself; on PostgreSQL `heliograph server
migrate` does, so that an operator chooses the moment.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, insert, inspect, select, text

from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Database
from heliograph_control_plane.store.errors import SchemaMismatchError

VERSION_TABLE: Final = "schema_version"
_ADVISORY_LOCK: Final = 0x4845_4C49_4F47


def parts(database: Database, engine: Engine) -> frozenset[str]:
    """Returns which parts of the schema live behind an engine: `main`, `logs` or both."""
    if database.main is database.logs:
        return frozenset({"main", "logs"})
    return frozenset({"main"} if engine is database.main else {"logs"})


def migrate(database: Database) -> list[str]:
    """Brings the schema to the version that this server needs.

    Returns:
        Versions that were applied, in order; empty when there was nothing to do.

    Raises:
        SchemaMismatchError: The schema is newer than this server, or not one of its own.
    """
    applied: list[str] = []
    for engine in database.engines():
        with engine.connect() as connection, connection.begin():
            if database.kind == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            applied.extend(_upgrade(connection, parts(database, engine)))
            if "main" in parts(database, engine):
                _identify(connection)
    return applied


def current_version(connection: Connection) -> str | None:
    """Returns the schema version of a database; None when it has none."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def check(database: Database) -> None:
    """Raises SchemaMismatchError unless the database has exactly the schema that this server works with."""
    for engine in database.engines():
        with engine.connect() as connection, connection.begin():
            found = current_version(connection)
        if found != schema.SCHEMA_VERSION:
            raise SchemaMismatchError(
                f"the database has schema {found or 'none'}, this server needs {schema.SCHEMA_VERSION}",
                hint="run `heliograph server migrate`, or start the version of the server that made it",
            )


def _config(connection: Connection, wanted: frozenset[str]) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["parts"] = wanted
    return config


def _upgrade(connection: Connection, wanted: frozenset[str]) -> list[str]:
    config = _config(connection, wanted)
    script = ScriptDirectory.from_config(config)
    before = current_version(connection)
    if before is None and inspect(connection).get_table_names():
        raise SchemaMismatchError("the database holds tables that are not Heliograph's")
    try:
        steps = [] if before is None else list(script.iterate_revisions(before, "base"))
    except (CommandError, RevisionError) as error:
        raise SchemaMismatchError(
            f"the database has schema {before}, which this server does not know: it is newer",
            hint="start the version of the server that made it",
        ) from error
    command.upgrade(config, "head")
    known = {step.revision for step in steps}
    return [step.revision for step in reversed(list(script.walk_revisions())) if step.revision not in known]


def _identify(connection: Connection) -> None:
    """Gives a new database its identity."""
    meta = schema.meta
    if connection.scalar(select(meta.c.value).where(meta.c.key == "incarnation")) is None:
        connection.execute(
            insert(meta),
            [{"key": "incarnation", "value": str(uuid.uuid4())}, {"key": "epoch_base", "value": "0"}],
        )
