"""Agents have an owner: the principal whose token registered them. Agents of before have none until they register."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Word = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds the column."""
    if "main" in context.config.attributes["parts"]:
        op.add_column("agents", sa.Column("owner", Word, nullable=False, server_default=""))
