"""Schema versions: what the database has, what this server needs, and the way from one to the other.

A server works with exactly one schema. It makes and mends that of SQLite itself; on PostgreSQL `heliograph server
migrate` does, so that an operator chooses the moment.

A new database gets its tables from `schema` at once; Alembic, which takes longer to import than a server takes to
start, comes in only where an older schema is mended. A test holds that both ways end in the same schema.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, insert, inspect, select, text

from heliograph_control_plane.store import schema
from heliograph_control_plane.store.database import Database
from heliograph_control_plane.store.errors import SchemaMismatchError

if TYPE_CHECKING:
    from alembic.config import Config

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
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 (a constant)
    return found


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


def _upgrade(connection: Connection, wanted: frozenset[str]) -> list[str]:
    before = current_version(connection)
    if before == schema.SCHEMA_VERSION:
        return []
    if before is None:
        if inspect(connection).get_table_names():
            raise SchemaMismatchError("the database holds tables that are not Heliograph's")
        return _create(connection, wanted)
    return _mend(connection, wanted, before)


def _create(connection: Connection, wanted: frozenset[str]) -> list[str]:
    """Makes the tables of a new database, and notes their version as Alembic does."""
    if "main" in wanted:
        schema.metadata.create_all(connection)
    if "logs" in wanted:
        schema.log_metadata.create_all(connection)
    versions = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
    versions.create(connection)
    connection.execute(insert(versions).values(version_num=schema.SCHEMA_VERSION))
    return [schema.SCHEMA_VERSION]


def upgrade_from_nothing(connection: Connection, wanted: frozenset[str]) -> None:
    """Makes the tables by every migration in turn: the long way round, for the test that compares both."""
    from alembic import command

    command.upgrade(_config(connection, wanted), "head")


def _mend(connection: Connection, wanted: frozenset[str], before: str) -> list[str]:
    from alembic import command
    from alembic.script import ScriptDirectory
    from alembic.script.revision import RevisionError
    from alembic.util import CommandError

    config = _config(connection, wanted)
    script = ScriptDirectory.from_config(config)
    try:
        steps = list(script.iterate_revisions(before, "base"))
    except (CommandError, RevisionError) as error:
        raise SchemaMismatchError(
            f"the database has schema {before}, which this server does not know: it is newer",
            hint="start the version of the server that made it",
        ) from error
    command.upgrade(config, "head")
    known = {step.revision for step in steps}
    return [step.revision for step in reversed(list(script.walk_revisions())) if step.revision not in known]


def _config(connection: Connection, wanted: frozenset[str]) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["parts"] = wanted
    return config


def _identify(connection: Connection) -> None:
    """Gives a new database its identity."""
    meta = schema.meta
    if connection.scalar(select(meta.c.value).where(meta.c.key == "incarnation")) is None:
        connection.execute(
            insert(meta),
            [{"key": "incarnation", "value": str(uuid.uuid4())}, {"key": "epoch_base", "value": "0"}],
        )
