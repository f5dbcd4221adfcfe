"""The migrated schema is the declared one, on both databases; a server works with its own only."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from tests.support.postgres import PostgresCluster

from heliograph_control_plane.store import migrate_store, open_store, schema
from heliograph_control_plane.store.errors import SchemaMismatchError
from heliograph_control_plane.store.migrate import upgrade_from_nothing

_PG_COLUMNS = """
SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
    || coalesce(column_default, '') || ' ' || coalesce(collation_name, '')
FROM information_schema.columns WHERE table_schema = 'public'
"""
_PG_INDEXES = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
_PG_CONSTRAINTS = """
SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
"""
_PG_TABLES = """
SELECT relname || ' ' || coalesce(array_to_string(reloptions, ','), '') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
_PG_SCHEMA = (_PG_COLUMNS, _PG_INDEXES, _PG_CONSTRAINTS, _PG_TABLES)


def sqlite_schema(path: Path) -> set[str]:
    """Returns the statements that make a SQLite file's schema."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    finally:
        connection.close()
    return {" ".join(sql.split()) for name, sql in rows if name not in ("schema_version", "sqlite_sequence")}


def postgres_schema(url: str) -> set[str]:
    """Returns what PostgreSQL's catalogue says of a schema."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.connect() as connection:
            lines = [line for query in _PG_SCHEMA for line in connection.scalars(text(query))]
    finally:
        engine.dispose()
    return {line for line in lines if "schema_version" not in line}


def migrate_step_by_step(url: str, *wanted: str) -> None:
    """Makes the tables of an empty database by every migration in turn."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        upgrade_from_nothing(connection, frozenset(wanted))
    engine.dispose()


def test_migrated_is_declared_on_sqlite(tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    assert migrate_store(f"sqlite:///{new}") == [schema.SCHEMA_VERSION] * 2
    for part, file in (("main", new), ("logs", tmp_path / "new.db-logs")):
        migrated = tmp_path / f"migrated-{part}.db"
        migrate_step_by_step(f"sqlite:///{migrated}", part)
        assert sqlite_schema(file) == sqlite_schema(migrated)


def test_migrated_is_declared_on_postgresql(postgres: PostgresCluster) -> None:
    migrated, new = postgres.empty_database(), postgres.empty_database()
    assert migrate_store(new) == [schema.SCHEMA_VERSION]
    migrate_step_by_step(migrated, "main", "logs")
    assert postgres_schema(migrated) == postgres_schema(new)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    return cluster.empty_database()


def run_sql(url: str, statement: str) -> None:
    """Runs one statement beside the store."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_migrating_twice_does_nothing(empty: str) -> None:
    assert migrate_store(empty)
    store = open_store(empty)
    identity = store.incarnation
    store.close()
    assert migrate_store(empty) == []
    store = open_store(empty)
    assert store.incarnation == identity
    store.close()


def test_a_server_refuses_a_database_without_a_schema(postgres: PostgresCluster) -> None:
    with pytest.raises(SchemaMismatchError, match="schema none"):
        open_store(postgres.empty_database())


def test_a_server_refuses_a_newer_schema_and_migrating_does_not_help(empty: str) -> None:
    migrate_store(empty)
    run_sql(empty, "UPDATE schema_version SET version_num = '9999'")
    for attempt in (lambda: open_store(empty, make_schema=False), lambda: migrate_store(empty)):
        with pytest.raises(SchemaMismatchError, match="9999"):
            attempt()


def test_a_database_of_something_else_is_left_alone(empty: str) -> None:
    run_sql(empty, "CREATE TABLE theirs (a INTEGER)")
    with pytest.raises(SchemaMismatchError, match="not Heliograph's"):
        migrate_store(empty)
    run_sql(empty, "DROP TABLE theirs")
    assert migrate_store(empty)
