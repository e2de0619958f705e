"""heads of queues, and ids that are never given again"""

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Whose ids name rows outside of a transaction. SQLite gives the id of the last row again once that is deleted.
NUMBERED = ("conversations", "inbox", "outbox")
# What waits for an earlier row of its conversation or lane is no head.
BEHIND = (
    """UPDATE inbox SET head = false WHERE state IN ('queued', 'claimed') AND EXISTS (
           SELECT 1 FROM inbox AS earlier WHERE earlier.conversation_id = inbox.conversation_id
           AND earlier.id < inbox.id AND earlier.state IN ('queued', 'claimed'))""",
    """UPDATE outbox SET head = false WHERE state IN ('planned', 'sending') AND EXISTS (
           SELECT 1 FROM outbox AS earlier WHERE earlier.channel = outbox.channel AND earlier.lane = outbox.lane
           AND earlier.id < outbox.id AND earlier.state IN ('planned', 'sending'))""",
)
REPLACED = (
    ("ix_inbox_queue", "inbox", ["id"], "state IN ('queued', 'claimed')"),
    ("ix_outbox_due", "outbox", ["next_at", "id"], "state = 'planned'"),
)
BY_HEAD = (
    ("ix_inbox_queue", "inbox", ["id", "source"], "head AND state IN ('queued', 'claimed')"),
    ("ix_outbox_due", "outbox", ["next_at", "id", "channel", "destination"], "head AND state = 'planned'"),
    ("ix_outbox_unsent", "outbox", ["id"], "state <> 'sent'"),
    ("ix_outbox_alone", "outbox", ["created_at"], "inbox_id IS NULL"),
)


def _create(indexes: tuple[tuple[str, str, list[str], str], ...]) -> None:
    for name, table, columns, condition in indexes:
        sqlite = sa.text(condition.replace("head AND", "head = 1 AND"))
        op.create_index(name, table, columns, sqlite_where=sqlite, postgresql_where=sa.text(condition))


def _drop(indexes: tuple[tuple[str, str, list[str], str], ...]) -> None:
    for name, table, _, _ in indexes:
        op.drop_index(name, table)


def _number(*, never_again: bool) -> None:
    """SQLite's tables are made anew for it."""
    if op.get_context().dialect.name == "sqlite":
        for table in NUMBERED:
            numbered = {"sqlite_autoincrement": never_again}
            with op.batch_alter_table(table, recreate="always", table_kwargs=numbered):
                pass


def upgrade() -> None:
    _drop(REPLACED)
    op.drop_index(op.f("ix_outbox_created_at"), "outbox")
    for table in ("inbox", "outbox"):
        op.add_column(table, sa.Column("head", sa.Boolean(), server_default=sa.true(), nullable=False))
    for statement in BEHIND:
        op.execute(statement)
    _number(never_again=True)
    _create(BY_HEAD)


def downgrade() -> None:
    _drop(BY_HEAD)
    for table in ("inbox", "outbox"):
        op.drop_column(table, "head")
    _number(never_again=False)
    _create(REPLACED)
    op.create_index(op.f("ix_outbox_created_at"), "outbox", ["created_at"])
