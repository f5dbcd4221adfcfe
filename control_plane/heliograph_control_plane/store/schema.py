"""The tables, for both databases.

`metadata` holds everything but log lines; `log_metadata` holds those, in a file of their own on SQLite. Times are
microseconds; lists of words are JSON arrays. The hot history tables carry no foreign keys: their rows are only ever
written beside their run, in one transaction.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION: Final = "0004"
"""The newest migration: the only schema that this version of the server works with."""

metadata = MetaData()
log_metadata = MetaData()

Int = BigInteger().with_variant(Integer, "sqlite")
Word = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that is compared and sorted by code points, as SQLite does."""

_KEYED: Final[dict[str, Any]] = {"sqlite_strict": True, "sqlite_with_rowid": False}
_WITH_SEQUENCE: Final[dict[str, Any]] = {"sqlite_strict": True, "sqlite_autoincrement": True}
_UPDATED: Final[dict[str, Any]] = {"postgresql_with": {"fillfactor": "80"}}

meta = Table(
    "meta",
    metadata,
    Column("key", Word, primary_key=True),
    Column("value", Text, nullable=False),
    **_KEYED,
)

projects = Table(
    "projects",
    metadata,
    Column("id", Int, primary_key=True),
    Column("name", Word, nullable=False),
    Column("description", Text, nullable=False),
    Column("create_micros", Int, nullable=False),
    UniqueConstraint("name", name="projects_name"),
    **_WITH_SEQUENCE,
)

requirements = Table(
    "requirements",
    metadata,
    Column("id", Int, primary_key=True),
    Column("project_id", Int, ForeignKey("projects.id"), nullable=False),
    Column("launcher", Word, nullable=False),
    Column("host", Word, nullable=False),
    Column("labels", Word, nullable=False),
    UniqueConstraint("project_id", "launcher", "host", "labels", name="requirements_content"),
    **_WITH_SEQUENCE,
)

flows = Table(
    "flows",
    metadata,
    Column("id", Int, primary_key=True),
    Column("project_id", Int, ForeignKey("projects.id"), nullable=False),
    Column("name", Word, nullable=False),
    Column("latest_version", Int, nullable=False),
    Column("create_micros", Int, nullable=False),
    Column("update_micros", Int, nullable=False),
    UniqueConstraint("project_id", "name", name="flows_name"),
    **_WITH_SEQUENCE,
)

flow_versions = Table(
    "flow_versions",
    metadata,
    Column("id", Int, primary_key=True),
    Column("flow_id", Int, ForeignKey("flows.id"), nullable=False),
    Column("version", Int, nullable=False),
    Column("content_hash", Word, nullable=False),
    Column("graph", LargeBinary, nullable=False),
    Column("bundle", LargeBinary, nullable=False),
    Column("launch", LargeBinary, nullable=False),
    Column("schedule", LargeBinary, nullable=False),
    Column("requirement_id", Int, ForeignKey("requirements.id"), nullable=False),
    Column("create_micros", Int, nullable=False),
    Column("created_by", Word, nullable=False),
    UniqueConstraint("flow_id", "version", name="flow_versions_version"),
    **_WITH_SEQUENCE,
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Int, primary_key=True),
    Column("flow_id", Int, ForeignKey("flows.id"), nullable=False),
    Column("version", Int, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("paused", Int, nullable=False),
    Column("active_since_micros", Int, nullable=False),
    Column("quarantine", Text, nullable=False),
    UniqueConstraint("flow_id", name="schedules_flow"),
    **_WITH_SEQUENCE,
)

flow_runs = Table(
    "flow_runs",
    metadata,
    Column("id", Int, primary_key=True),
    Column("uuid", Word, nullable=False),
    Column("project_id", Int, ForeignKey("projects.id"), nullable=False),
    Column("flow_id", Int, ForeignKey("flows.id"), nullable=False),
    Column("version_id", Int, ForeignKey("flow_versions.id"), nullable=False),
    Column("requirement_id", Int, ForeignKey("requirements.id"), nullable=False),
    Column("schedule_id", Int),
    Column("occurrence", Word),
    Column("run_name", Word, nullable=False),
    Column("parameters_json", Text, nullable=False),
    Column("created_by", Word, nullable=False),
    Column("create_micros", Int, nullable=False),
    Column("scheduled_micros", Int, nullable=False),
    Column("state", Int, nullable=False),
    Column("state_micros", Int, nullable=False),
    Column("state_ordinal", Int, nullable=False),
    Column("start_micros", Int, nullable=False, server_default=text("0")),
    Column("end_micros", Int, nullable=False, server_default=text("0")),
    Column("phase", Int, nullable=False, server_default=text("0")),
    Column("attempt", Int, nullable=False, server_default=text("0")),
    Column("epoch", Int, nullable=False, server_default=text("0")),
    Column("agent", Word, nullable=False, server_default=text("''")),
    Column("ready_micros", Int),
    Column("heard_micros", Int, nullable=False, server_default=text("0")),
    Column("deadline_micros", Int),
    Column("last_sequence", Int, nullable=False, server_default=text("0")),
    Column("missing_events", Int, nullable=False, server_default=text("0")),
    Column("counts", Text, nullable=False, server_default=text("''")),
    Column("cancel_requested", Int, nullable=False, server_default=text("0")),
    Column("presumed_dead", Int, nullable=False, server_default=text("0")),
    Column("failure", LargeBinary),
    Column("launch_delay", Int, nullable=False, server_default=text("0")),
    Column("put_backs", Int, nullable=False, server_default=text("0")),
    UniqueConstraint("uuid", name="flow_runs_uuid"),
    **_WITH_SEQUENCE,
    **_UPDATED,
)
_CLAIMABLE = text("ready_micros IS NOT NULL")
Index(
    "flow_runs_ready",
    flow_runs.c.requirement_id,
    flow_runs.c.ready_micros,
    flow_runs.c.id,
    sqlite_where=_CLAIMABLE,
    postgresql_where=_CLAIMABLE,
)
_UNFINISHED = text("deadline_micros IS NOT NULL")
Index(
    "flow_runs_deadline",
    flow_runs.c.deadline_micros,
    sqlite_where=_UNFINISHED,
    postgresql_where=_UNFINISHED,
)
_SCHEDULED = text("schedule_id IS NOT NULL")
Index(
    "flow_runs_occurrence",
    flow_runs.c.schedule_id,
    flow_runs.c.occurrence,
    unique=True,
    sqlite_where=_SCHEDULED,
    postgresql_where=_SCHEDULED,
)
_ON_AGENT = text("phase IN (1, 2)")
Index("flow_runs_agent", flow_runs.c.agent, sqlite_where=_ON_AGENT, postgresql_where=_ON_AGENT)
Index("flow_runs_project", flow_runs.c.project_id, flow_runs.c.state, flow_runs.c.id)
Index("flow_runs_flow", flow_runs.c.flow_id, flow_runs.c.id)

flow_run_states = Table(
    "flow_run_states",
    metadata,
    Column("run_id", Int, nullable=False),
    Column("ordinal", Int, nullable=False),
    Column("state", Int, nullable=False),
    Column("time_micros", Int, nullable=False),
    Column("receive_micros", Int, nullable=False),
    Column("set_by", Word, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("failure", LargeBinary),
    PrimaryKeyConstraint("run_id", "ordinal"),
    **_KEYED,
)

task_runs = Table(
    "task_runs",
    metadata,
    Column("run_id", Int, nullable=False),
    Column("task", Int, nullable=False),
    Column("map_index", Int, nullable=False),
    Column("state", Int, nullable=False),
    Column("state_micros", Int, nullable=False),
    Column("start_micros", Int, nullable=False),
    Column("end_micros", Int, nullable=False),
    Column("run_count", Int, nullable=False),
    Column("child_count", Int, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("last_sequence", Int, nullable=False),
    Column("result_stored", Int, nullable=False),
    Column("failure", LargeBinary),
    PrimaryKeyConstraint("run_id", "task", "map_index"),
    **_KEYED,
    **_UPDATED,
)

task_run_states = Table(
    "task_run_states",
    metadata,
    Column("run_id", Int, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("sequence", Int, nullable=False),
    Column("task", Int, nullable=False),
    Column("map_index", Int, nullable=False),
    Column("state", Int, nullable=False),
    Column("time_micros", Int, nullable=False),
    Column("run_count", Int, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch", "sequence"),
    **_KEYED,
)

run_tokens = Table(
    "run_tokens",
    metadata,
    Column("run_id", Int, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("used", Int, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch"),
    **_KEYED,
)

start_codes = Table(
    "start_codes",
    metadata,
    Column("run_id", Int, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("expire_micros", Int, nullable=False),
    Column("exchange_hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run_id", "epoch"),
    **_KEYED,
)
Index("start_codes_age", start_codes.c.expire_micros)

agents = Table(
    "agents",
    metadata,
    Column("name", Word, primary_key=True),
    Column("launcher", Word, nullable=False),
    Column("labels", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("host", Word, nullable=False),
    Column("capacity", Int, nullable=False),
    Column("projects", Text, nullable=False),
    Column("running", Int, nullable=False),
    Column("draining", Int, nullable=False),
    Column("create_micros", Int, nullable=False),
    Column("last_seen_micros", Int, nullable=False),
    Column("owner", Word, nullable=False, server_default=""),
    **_KEYED,
)

principals = Table(
    "principals",
    metadata,
    Column("name", Word, primary_key=True),
    Column("create_micros", Int, nullable=False),
    **_KEYED,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Int, primary_key=True),
    Column("token_id", Word, nullable=False),
    Column("principal", Word, ForeignKey("principals.name"), nullable=False),
    Column("roles", Text, nullable=False),
    Column("projects", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("create_micros", Int, nullable=False),
    Column("expire_micros", Int, nullable=False),
    Column("last_used_micros", Int, nullable=False),
    Column("revoke_micros", Int, nullable=False),
    Column("created_by", Word, nullable=False),
    UniqueConstraint("token_id", name="tokens_token_id"),
    **_WITH_SEQUENCE,
)

request_records = Table(
    "request_records",
    metadata,
    Column("scope", Word, nullable=False),
    Column("request_id", Word, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("effect", Text, nullable=False),
    Column("create_micros", Int, nullable=False),
    PrimaryKeyConstraint("scope", "request_id"),
    **_KEYED,
)
Index("request_records_age", request_records.c.create_micros)

leaders = Table(
    "leaders",
    metadata,
    Column("name", Word, primary_key=True),
    Column("holder", Word, nullable=False),
    Column("term", Int, nullable=False),
    Column("expire_micros", Int, nullable=False),
    **_KEYED,
)

quarantined = Table(
    "quarantined",
    metadata,
    Column("kind", Word, nullable=False),
    Column("key", Word, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time_micros", Int, nullable=False),
    PrimaryKeyConstraint("kind", "key"),
    **_KEYED,
)

log_writers = Table(
    "log_writers",
    log_metadata,
    Column("run_uuid", Word, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("last_sequence", Int, nullable=False),
    Column("stored_bytes", Int, nullable=False),
    PrimaryKeyConstraint("run_uuid", "epoch"),
    **_KEYED,
)

log_chunks = Table(
    "log_chunks",
    log_metadata,
    Column("id", Int, primary_key=True),
    Column("run_uuid", Word, nullable=False),
    Column("epoch", Int, nullable=False),
    Column("first_sequence", Int, nullable=False),
    Column("last_sequence", Int, nullable=False),
    Column("line_count", Int, nullable=False),
    Column("max_level", Int, nullable=False),
    Column("store_micros", Int, nullable=False),
    Column("data", LargeBinary, nullable=False),
    **_WITH_SEQUENCE,
)
Index("log_chunks_run", log_chunks.c.run_uuid, log_chunks.c.id)
