"""The first schema: projects, flows, runs and their histories, agents, tokens, log lines."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_KEYED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}
_WITH_SEQUENCE: dict[str, Any] = {"sqlite_strict": True, "sqlite_autoincrement": True}
_UPDATED: dict[str, Any] = {"postgresql_with": {"fillfactor": "80"}}


def upgrade() -> None:
    """Makes the tables of the parts that live in this database."""
    wanted = context.config.attributes["parts"]
    if "main" in wanted:
        _create_main()
    if "logs" in wanted:
        _create_logs()


def _create_main() -> None:
    op.create_table(
        "meta",
        sa.Column("key", Word, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        **_KEYED,
    )
    op.create_table(
        "projects",
        sa.Column("id", Int, primary_key=True),
        sa.Column("name", Word, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.UniqueConstraint("name", name="projects_name"),
        **_WITH_SEQUENCE,
    )
    op.create_table(
        "requirements",
        sa.Column("id", Int, primary_key=True),
        sa.Column("project_id", Int, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("launcher", Word, nullable=False),
        sa.Column("host", Word, nullable=False),
        sa.Column("labels", Word, nullable=False),
        sa.UniqueConstraint("project_id", "launcher", "host", "labels", name="requirements_content"),
        **_WITH_SEQUENCE,
    )
    op.create_table(
        "flows",
        sa.Column("id", Int, primary_key=True),
        sa.Column("project_id", Int, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("name", Word, nullable=False),
        sa.Column("latest_version", Int, nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.Column("update_micros", Int, nullable=False),
        sa.UniqueConstraint("project_id", "name", name="flows_name"),
        **_WITH_SEQUENCE,
    )
    op.create_table(
        "flow_versions",
        sa.Column("id", Int, primary_key=True),
        sa.Column("flow_id", Int, sa.ForeignKey("flows.id"), nullable=False),
        sa.Column("version", Int, nullable=False),
        sa.Column("content_hash", Word, nullable=False),
        sa.Column("graph", sa.LargeBinary, nullable=False),
        sa.Column("bundle", sa.LargeBinary, nullable=False),
        sa.Column("launch", sa.LargeBinary, nullable=False),
        sa.Column("schedule", sa.LargeBinary, nullable=False),
        sa.Column("requirement_id", Int, sa.ForeignKey("requirements.id"), nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.Column("created_by", Word, nullable=False),
        sa.UniqueConstraint("flow_id", "version", name="flow_versions_version"),
        **_WITH_SEQUENCE,
    )
    op.create_table(
        "schedules",
        sa.Column("id", Int, primary_key=True),
        sa.Column("flow_id", Int, sa.ForeignKey("flows.id"), nullable=False),
        sa.Column("version", Int, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("paused", Int, nullable=False),
        sa.Column("active_since_micros", Int, nullable=False),
        sa.Column("quarantine", sa.Text, nullable=False),
        sa.UniqueConstraint("flow_id", name="schedules_flow"),
        **_WITH_SEQUENCE,
    )
    op.create_table(
        "flow_runs",
        sa.Column("id", Int, primary_key=True),
        sa.Column("uuid", Word, nullable=False),
        sa.Column("project_id", Int, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("flow_id", Int, sa.ForeignKey("flows.id"), nullable=False),
        sa.Column("version_id", Int, sa.ForeignKey("flow_versions.id"), nullable=False),
        sa.Column("requirement_id", Int, sa.ForeignKey("requirements.id"), nullable=False),
        sa.Column("schedule_id", Int),
        sa.Column("occurrence", Word),
        sa.Column("run_name", Word, nullable=False),
        sa.Column("parameters_json", sa.Text, nullable=False),
        sa.Column("created_by", Word, nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.Column("scheduled_micros", Int, nullable=False),
        sa.Column("state", Int, nullable=False),
        sa.Column("state_micros", Int, nullable=False),
        sa.Column("state_ordinal", Int, nullable=False),
        sa.Column("start_micros", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("end_micros", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("phase", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("attempt", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("epoch", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("agent", Word, nullable=False, server_default=sa.text("''")),
        sa.Column("ready_micros", Int),
        sa.Column("heard_micros", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("deadline_micros", Int),
        sa.Column("last_sequence", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("missing_events", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("counts", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("cancel_requested", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("presumed_dead", Int, nullable=False, server_default=sa.text("0")),
        sa.Column("failure", sa.LargeBinary),
        sa.UniqueConstraint("uuid", name="flow_runs_uuid"),
        **_WITH_SEQUENCE,
        **_UPDATED,
    )
    op.create_index(
        "flow_runs_ready",
        "flow_runs",
        ["requirement_id", "ready_micros", "id"],
        sqlite_where=sa.text("ready_micros IS NOT NULL"),
        postgresql_where=sa.text("ready_micros IS NOT NULL"),
    )
    op.create_index(
        "flow_runs_deadline",
        "flow_runs",
        ["deadline_micros"],
        sqlite_where=sa.text("deadline_micros IS NOT NULL"),
        postgresql_where=sa.text("deadline_micros IS NOT NULL"),
    )
    op.create_index(
        "flow_runs_occurrence",
        "flow_runs",
        ["schedule_id", "occurrence"],
        unique=True,
        sqlite_where=sa.text("schedule_id IS NOT NULL"),
        postgresql_where=sa.text("schedule_id IS NOT NULL"),
    )
    op.create_index(
        "flow_runs_agent",
        "flow_runs",
        ["agent"],
        sqlite_where=sa.text("phase IN (1, 2)"),
        postgresql_where=sa.text("phase IN (1, 2)"),
    )
    op.create_index("flow_runs_project", "flow_runs", ["project_id", "state", "id"])
    op.create_index("flow_runs_flow", "flow_runs", ["flow_id", "id"])
    op.create_table(
        "flow_run_states",
        sa.Column("run_id", Int, nullable=False),
        sa.Column("ordinal", Int, nullable=False),
        sa.Column("state", Int, nullable=False),
        sa.Column("time_micros", Int, nullable=False),
        sa.Column("receive_micros", Int, nullable=False),
        sa.Column("set_by", Word, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("failure", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run_id", "ordinal"),
        **_KEYED,
    )
    op.create_table(
        "task_runs",
        sa.Column("run_id", Int, nullable=False),
        sa.Column("task", Int, nullable=False),
        sa.Column("map_index", Int, nullable=False),
        sa.Column("state", Int, nullable=False),
        sa.Column("state_micros", Int, nullable=False),
        sa.Column("start_micros", Int, nullable=False),
        sa.Column("end_micros", Int, nullable=False),
        sa.Column("run_count", Int, nullable=False),
        sa.Column("child_count", Int, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("last_sequence", Int, nullable=False),
        sa.Column("result_stored", Int, nullable=False),
        sa.Column("failure", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run_id", "task", "map_index"),
        **_KEYED,
        **_UPDATED,
    )
    op.create_table(
        "task_run_states",
        sa.Column("run_id", Int, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("sequence", Int, nullable=False),
        sa.Column("task", Int, nullable=False),
        sa.Column("map_index", Int, nullable=False),
        sa.Column("state", Int, nullable=False),
        sa.Column("time_micros", Int, nullable=False),
        sa.Column("run_count", Int, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "epoch", "sequence"),
        **_KEYED,
    )
    op.create_table(
        "run_tokens",
        sa.Column("run_id", Int, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("used", Int, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "epoch"),
        **_KEYED,
    )
    op.create_table(
        "agents",
        sa.Column("name", Word, primary_key=True),
        sa.Column("launcher", Word, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("host", Word, nullable=False),
        sa.Column("capacity", Int, nullable=False),
        sa.Column("projects", sa.Text, nullable=False),
        sa.Column("running", Int, nullable=False),
        sa.Column("draining", Int, nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.Column("last_seen_micros", Int, nullable=False),
        **_KEYED,
    )
    op.create_table(
        "principals",
        sa.Column("name", Word, primary_key=True),
        sa.Column("create_micros", Int, nullable=False),
        **_KEYED,
    )
    op.create_table(
        "tokens",
        sa.Column("id", Int, primary_key=True),
        sa.Column("token_id", Word, nullable=False),
        sa.Column("principal", Word, sa.ForeignKey("principals.name"), nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("projects", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.Column("expire_micros", Int, nullable=False),
        sa.Column("last_used_micros", Int, nullable=False),
        sa.Column("revoke_micros", Int, nullable=False),
        sa.Column("created_by", Word, nullable=False),
        sa.UniqueConstraint("token_id", name="tokens_token_id"),
        **_WITH_SEQUENCE,
    )
    op.create_table(
        "request_records",
        sa.Column("scope", Word, nullable=False),
        sa.Column("request_id", Word, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("effect", sa.Text, nullable=False),
        sa.Column("create_micros", Int, nullable=False),
        sa.PrimaryKeyConstraint("scope", "request_id"),
        **_KEYED,
    )
    op.create_index("request_records_age", "request_records", ["create_micros"])
    op.create_table(
        "leaders",
        sa.Column("name", Word, primary_key=True),
        sa.Column("holder", Word, nullable=False),
        sa.Column("term", Int, nullable=False),
        sa.Column("expire_micros", Int, nullable=False),
        **_KEYED,
    )
    op.create_table(
        "quarantined",
        sa.Column("kind", Word, nullable=False),
        sa.Column("key", Word, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("time_micros", Int, nullable=False),
        sa.PrimaryKeyConstraint("kind", "key"),
        **_KEYED,
    )


def _create_logs() -> None:
    op.create_table(
        "log_writers",
        sa.Column("run_uuid", Word, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("last_sequence", Int, nullable=False),
        sa.Column("stored_bytes", Int, nullable=False),
        sa.PrimaryKeyConstraint("run_uuid", "epoch"),
        **_KEYED,
    )
    op.create_table(
        "log_chunks",
        sa.Column("id", Int, primary_key=True),
        sa.Column("run_uuid", Word, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("first_sequence", Int, nullable=False),
        sa.Column("last_sequence", Int, nullable=False),
        sa.Column("line_count", Int, nullable=False),
        sa.Column("max_level", Int, nullable=False),
        sa.Column("store_micros", Int, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        **_WITH_SEQUENCE,
    )
    op.create_index("log_chunks_run", "log_chunks", ["run_uuid", "id"])
