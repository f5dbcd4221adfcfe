"""Start codes, which runs exchange for their tokens."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_KEYED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Adds the table."""
    if "main" not in context.config.attributes["parts"]:
        return
    op.create_table(
        "start_codes",
        sa.Column("run_id", Int, nullable=False),
        sa.Column("epoch", Int, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("expire_micros", Int, nullable=False),
        sa.Column("exchange_hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "epoch"),
        **_KEYED,
    )
    op.create_index("start_codes_age", "start_codes", ["expire_micros"])
