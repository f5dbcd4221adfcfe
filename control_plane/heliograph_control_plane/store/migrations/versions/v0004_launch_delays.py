"""Runs keep why they have not started although an agent took them, and how often they were put back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Adds the columns."""
    if "main" not in context.config.attributes["parts"]:
        return
    for name in ("launch_delay", "put_backs"):
        op.add_column("flow_runs", sa.Column(name, Int, nullable=False, server_default=sa.text("0")))
