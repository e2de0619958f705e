"""segments of use, the free quota, what was billed, operators' orders, and what the watch remembers"""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _at(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "usage_segments",
        sa.Column("id", ID, nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("session", ID, nullable=True),
        sa.Column("state", sa.String(length=9), nullable=False),
        _at("started_at"),
        _at("ended_at"),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("yuan_per_hour", sa.Double(), nullable=True),
        sa.Column("compute_hours_per_hour", sa.Double(), nullable=True),
        sa.Column("price_source", sa.String(length=12), nullable=False),
        _at("priced_at", nullable=True),
        sa.Column("rebuilt", sa.Boolean(), nullable=False),
        sa.CheckConstraint("ended_at >= started_at", name="ck_usage_segments_forwards"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_segments")),
        sa.UniqueConstraint("instance", "started_at", name=op.f("uq_usage_segments_instance_started_at")),
    )
    op.create_table(
        "quota_snapshots",
        sa.Column("id", ID, nullable=False),
        _at("at"),
        sa.Column("initial", sa.Double(), nullable=False),
        sa.Column("remaining", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        _at("starts_at", nullable=True),
        _at("ends_at", nullable=True),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota_snapshots")),
        sa.UniqueConstraint("at", "source", name=op.f("uq_quota_snapshots_at_source")),
    )
    op.create_table(
        "billed_days",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("yuan", sa.Double(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        _at("seen_at"),
        sa.PrimaryKeyConstraint("instance", "day", name=op.f("pk_billed_days")),
    )
    op.create_table(
        "orders",
        sa.Column("id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        _at("until", nullable=True),
        sa.Column("placed_by", sa.Text(), nullable=False),
        _at("created_at"),
        _at("taken_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("key", name=op.f("uq_orders_key")),
    )
    op.create_index(op.f("ix_orders_instance_taken_at"), "orders", ["instance", "taken_at"])
    op.create_table(
        "watches",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("memory", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        _at("lease_until", nullable=True),
        sa.Column("fence", ID, nullable=False),
        _at("decided_at"),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_watches")),
    )
    op.create_table(
        "idle_spells",
        sa.Column("instance", sa.Text(), nullable=False),
        _at("started_at"),
        _at("ended_at"),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("ended_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("instance", "started_at", name=op.f("pk_idle_spells")),
    )


def downgrade() -> None:
    for table in ("idle_spells", "watches", "orders", "billed_days", "quota_snapshots", "usage_segments"):
        op.drop_table(table)
