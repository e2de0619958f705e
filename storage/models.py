"""The tables.

`head` of a message or a delivery: nothing of its conversation or lane waits before it. It is true of every row that
may be next and of few others, so that queues are found by indexes that hold their heads alone, whatever waits behind.
"""

import secrets
from array import array
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    literal_column,
    true,
)
from sqlalchemy import text as sql
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only for INTEGER
# SQLite gives the number of the last row again once that is deleted; somebody may still work on what had it.
NEVER_AGAIN = {"sqlite_autoincrement": True}


class UtcDateTime(TypeDecorator[datetime]):
    """Points in time, aware and in UTC on both databases; SQLite keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times are stored with their zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert isinstance(value, datetime)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class UserText(TypeDecorator[str]):
    """What people and models write. NUL and lone surrogates, which the databases refuse, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class TokenIds(TypeDecorator[tuple[int, ...]]):
    """A model's tokens, four bytes each."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: tuple[int, ...] | None, dialect: Dialect) -> bytes | None:
        return None if value is None else array("i", value).tobytes()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> tuple[int, ...] | None:
        return None if value is None else tuple(array("i", value))


def among(state: ColumnElement[str] | InstrumentedAttribute[str], *states: str) -> ColumnElement[bool]:
    """Whether a row is in one of the states. They are written into the statement: a database uses a partial index
    only where it sees that its condition holds, and a parameter shows nothing."""
    names: list[ColumnElement[str]] = [literal_column(f"'{name}'") for name in states]
    return state == names[0] if len(names) == 1 else state.in_(names)


def public_id(prefix: str) -> str:
    """An id that may be shown: it says nothing about how many there are."""
    return f"{prefix}_{secrets.token_hex(12)}"


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {int: Id, str: UserText, datetime: UtcDateTime}  # noqa: RUF012 - read by SQLAlchemy


class Conversation(Table):
    """`key` names the place where it is held: "telegram:123", "webhook:demo:room-1"."""

    __tablename__ = "conversations"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    system_prompt: Mapped[str | None]
    created_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "uq_conversations_open_key", "key", unique=True,
            sqlite_where=sql("closed_at IS NULL"), postgresql_where=sql("closed_at IS NULL"),
        ),
        NEVER_AGAIN,
    )  # fmt: skip


class Message(Table):
    """One thing said, by the user or the model. Times of generation are the model's only."""

    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("messages.id", ondelete="SET NULL"))
    role: Mapped[str] = mapped_column(String(16))
    content: Mapped[str]
    reasoning: Mapped[str | None]
    prompt_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    model: Mapped[str | None]
    finish_reason: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (Index(None, "conversation_id", "id"), Index(None, "parent_id"), Index(None, "created_at"))


class Inbox(Table):
    """A message that was accepted. queued → claimed → done, or failed (the dead letter)."""

    __tablename__ = "inbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(String(32), unique=True)
    source: Mapped[str]
    external_id: Mapped[str]
    body_hash: Mapped[str | None] = mapped_column(String(64))
    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    text: Mapped[str]
    meta: Mapped[str]
    state: Mapped[str] = mapped_column(String(8))
    owner: Mapped[str | None]
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]
    error: Mapped[str | None]
    placeholder: Mapped[str | None]
    reply_id: Mapped[int | None] = mapped_column(ForeignKey("messages.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]
    done_at: Mapped[datetime | None]
    head: Mapped[bool] = mapped_column(server_default=true())
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        Index(
            "uq_inbox_one_in_flight", "conversation_id", unique=True,
            sqlite_where=sql("state = 'claimed'"), postgresql_where=sql("state = 'claimed'"),
        ),
        Index(
            "ix_inbox_unfinished", "conversation_id", "id",
            sqlite_where=sql("state IN ('queued', 'claimed')"),
            postgresql_where=sql("state IN ('queued', 'claimed')"),
        ),
        Index(
            "ix_inbox_queue", "id", "source",
            sqlite_where=sql("head = 1 AND state IN ('queued', 'claimed')"),
            postgresql_where=sql("head AND state IN ('queued', 'claimed')"),
        ),
        Index(None, "conversation_id"),
        Index(None, "reply_id"),
        Index(None, "created_at"),
        NEVER_AGAIN,
    )  # fmt: skip


class Draft(Table):
    """The answer to a claimed message as far as it was written when it was last noted."""

    __tablename__ = "drafts"
    inbox_id: Mapped[int] = mapped_column(ForeignKey("inbox.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str]
    tokens: Mapped[tuple[int, ...]] = mapped_column(TokenIds)
    text: Mapped[str]
    reasoning: Mapped[str]


class Outbox(Table):
    """Something to send. planned → sending → sent; or uncertain (it may have arrived), or dead.

    Order holds within a lane; `destination` is the receiver, who may have many lanes.
    """

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(String(32), unique=True)
    inbox_id: Mapped[int | None] = mapped_column(ForeignKey("inbox.id", ondelete="CASCADE"))
    channel: Mapped[str]
    destination: Mapped[str]
    lane: Mapped[str]
    payload: Mapped[str]
    state: Mapped[str] = mapped_column(String(9))
    owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]
    error: Mapped[str | None]
    external_ref: Mapped[str | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    head: Mapped[bool] = mapped_column(server_default=true())
    __table_args__ = (
        Index(
            "ix_outbox_unfinished", "channel", "lane", "id",
            sqlite_where=sql("state IN ('planned', 'sending')"),
            postgresql_where=sql("state IN ('planned', 'sending')"),
        ),
        Index(
            "ix_outbox_sending", "id",
            sqlite_where=sql("state = 'sending'"), postgresql_where=sql("state = 'sending'"),
        ),
        Index(
            "ix_outbox_due", "next_at", "id", "channel", "destination",
            sqlite_where=sql("head = 1 AND state = 'planned'"), postgresql_where=sql("head AND state = 'planned'"),
        ),
        Index(
            "ix_outbox_unsent", "id",
            sqlite_where=sql("state <> 'sent'"), postgresql_where=sql("state <> 'sent'"),
        ),
        Index(
            "ix_outbox_alone", "created_at",
            sqlite_where=sql("inbox_id IS NULL"), postgresql_where=sql("inbox_id IS NULL"),
        ),
        Index(None, "inbox_id"),
        NEVER_AGAIN,
    )  # fmt: skip


class Client(Table):
    """A program that posts to /webhooks. The secret is kept as it is: signatures need it."""

    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    secret: Mapped[str]
    callback_url: Mapped[str | None]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class ApiKey(Table):
    """A key, by its SHA-256: 256 random bits need no slow hash."""

    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    prefix: Mapped[str] = mapped_column(String(12))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(8))
    client_id: Mapped[int | None] = mapped_column(ForeignKey("clients.id"))
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class TelegramUser(Table):
    """Somebody whom the operator has let in or shut out."""

    __tablename__ = "telegram_users"
    user_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    allowed: Mapped[bool]
    updated_at: Mapped[datetime]


class Usage(Table):
    """What one answer took."""

    __tablename__ = "usage"
    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str]
    conversation_id: Mapped[int | None] = mapped_column(ForeignKey("conversations.id", ondelete="SET NULL"))
    key_name: Mapped[str | None]
    model: Mapped[str]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    finish_reason: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    __table_args__ = (Index(None, "finished_at"), Index(None, "conversation_id"))


class Alert(Table):
    """Something the operators were told, once for each (kind, key)."""

    __tablename__ = "alerts"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    key: Mapped[str]
    text: Mapped[str]
    created_at: Mapped[datetime]
    __table_args__ = (UniqueConstraint("kind", "key"),)


class Segment(Table):
    """A span in which the instance was in one state at one price. Those of one instance never overlap.

    `session`: DSW's number of the span from a start to the next stop. `rebuilt`: as DSW told it afterwards, not as it
    was seen. A price is what an hour takes, in yuan and in compute-hours, with where it came from and when.
    """

    __tablename__ = "usage_segments"
    id: Mapped[int] = mapped_column(primary_key=True)
    instance: Mapped[str]
    session: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(9))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    spec: Mapped[str]
    yuan_per_hour: Mapped[float | None]
    compute_hours_per_hour: Mapped[float | None]
    price_source: Mapped[str] = mapped_column(String(12))
    priced_at: Mapped[datetime | None]
    rebuilt: Mapped[bool]
    __table_args__ = (
        UniqueConstraint("instance", "started_at"),
        CheckConstraint("ended_at >= started_at", "ck_usage_segments_forwards"),
    )


class QuotaSnapshot(Table):
    """How many compute-hours of the free quota were left at one moment. `starts_at`, `ends_at`: of the free trial."""

    __tablename__ = "quota_snapshots"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    initial: Mapped[float]
    remaining: Mapped[float]
    unit: Mapped[str] = mapped_column(String(16))
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    source: Mapped[str] = mapped_column(String(16))
    __table_args__ = (UniqueConstraint("at", "source"),)


class BilledDay(Table):
    """What Alibaba charged for a day, by its own account."""

    __tablename__ = "billed_days"
    instance: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    yuan: Mapped[float]
    source: Mapped[str] = mapped_column(String(16))
    seen_at: Mapped[datetime]


class Order(Table):
    """What an operator asks of the instance, until the watch has taken it. `key`: the same for one press or link."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    instance: Mapped[str]
    kind: Mapped[str] = mapped_column(String(8))
    until: Mapped[datetime | None]
    placed_by: Mapped[str]
    created_at: Mapped[datetime]
    taken_at: Mapped[datetime | None]
    __table_args__ = (Index(None, "instance", "taken_at"),)


class Watch(Table):
    """What the idle policy remembers of an instance, and which gateway's turn it is to act on it."""

    __tablename__ = "watches"
    instance: Mapped[str] = mapped_column(primary_key=True)
    memory: Mapped[str]
    reason: Mapped[str]
    owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    fence: Mapped[int]
    decided_at: Mapped[datetime]


class IdleSpell(Table):
    """A gap between two uses of the instance, to learn from."""

    __tablename__ = "idle_spells"
    instance: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime]
    after: Mapped[str]
    ended_by: Mapped[str]
