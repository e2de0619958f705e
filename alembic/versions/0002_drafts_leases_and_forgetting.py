"""drafts of answers, leases on deliveries, and rows that go with what they belong to"""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UNFINISHED = "state IN ('queued', 'claimed')"

# (table, column, table that it refers to, what a deletion there does here)
REFERENCES = (
    ("messages", "conversation_id", "conversations", "CASCADE"),
    ("messages", "parent_id", "messages", "SET NULL"),
    ("inbox", "conversation_id", "conversations", "CASCADE"),
    ("inbox", "reply_id", "messages", "SET NULL"),
    ("outbox", "inbox_id", "inbox", "CASCADE"),
    ("usage", "conversation_id", "conversations", "SET NULL"),
)
INDEXES = (
    ("messages", "parent_id"),
    ("messages", "created_at"),
    ("inbox", "conversation_id"),
    ("inbox", "reply_id"),
    ("outbox", "inbox_id"),
    ("outbox", "created_at"),
    ("usage", "conversation_id"),
)


def _refer(rules: bool) -> None:
    """Gives the references their rules for deletions, or takes them away."""
    for table in ("messages", "inbox", "outbox", "usage"):
        with op.batch_alter_table(table) as batch:
            for source, column, target, rule in REFERENCES:
                if source == table:
                    name = op.f(f"fk_{table}_{column}")
                    batch.drop_constraint(name, type_="foreignkey")
                    batch.create_foreign_key(name, target, [column], ["id"], ondelete=rule if rules else None)


def upgrade() -> None:
    op.create_table(
        "drafts",
        sa.Column("inbox_id", ID, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tokens", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("reasoning", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["inbox_id"], ["inbox.id"], name=op.f("fk_drafts_inbox_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("inbox_id", name=op.f("pk_drafts")),
    )
    with op.batch_alter_table("outbox") as batch:
        batch.add_column(sa.Column("destination", sa.Text(), nullable=True))
        batch.add_column(sa.Column("owner", sa.Text(), nullable=True))
        batch.add_column(sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("failures", ID, nullable=True))
    op.execute("UPDATE outbox SET destination = lane, failures = attempts")
    with op.batch_alter_table("outbox") as batch:
        batch.alter_column("failures", existing_type=ID, nullable=False)
        batch.alter_column("destination", existing_type=sa.Text(), nullable=False)
    _refer(rules=True)
    for table, column in INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
    where = {"sqlite_where": sa.text(UNFINISHED), "postgresql_where": sa.text(UNFINISHED)}
    op.create_index("ix_inbox_queue", "inbox", ["id"], **where)
    where = {"sqlite_where": sa.text("state = 'planned'"), "postgresql_where": sa.text("state = 'planned'")}
    op.create_index("ix_outbox_due", "outbox", ["next_at", "id"], **where)
    where = {"sqlite_where": sa.text("state = 'sending'"), "postgresql_where": sa.text("state = 'sending'")}
    op.create_index("ix_outbox_sending", "outbox", ["id"], **where)


def downgrade() -> None:
    op.drop_index("ix_outbox_sending", "outbox")
    op.drop_index("ix_outbox_due", "outbox")
    op.drop_index("ix_inbox_queue", "inbox")
    for table, column in reversed(INDEXES):
        op.drop_index(op.f(f"ix_{table}_{column}"), table)
    op.drop_table("drafts")
    _refer(rules=False)
    with op.batch_alter_table("outbox") as batch:
        batch.drop_column("failures")
        batch.drop_column("lease_until")
        batch.drop_column("owner")
        batch.drop_column("destination")
