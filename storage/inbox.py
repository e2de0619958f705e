"""Messages that were accepted, until each has its reply.

One message of a conversation is in flight at a time, the oldest first; a unique index sees to it. A claim
carries a fence that grows with every claim of the row, so that a process that was paused can't commit over its
successor: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Select, Update, and_, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage import outbox
from storage.conversations import last_message_id, open_conversation
from storage.errors import ClaimLost
from storage.ledger import Usage, record_usage
from storage.models import Conversation, Inbox, Message, public_id
from storage.outbox import NewDelivery
from storage.upsert import insert_new

UNFINISHED = ("queued", "claimed")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from outside. (source, external_id) is the sender's own name for it; `meta` is the adapter's."""

    source: str
    external_id: str
    conversation_key: str
    text: str
    body_hash: str | None = None
    meta: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The stored row; `created` is False where the message was known already."""

    message: Inbox
    created: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer one message, until the lease runs out."""

    id: int
    public_id: str
    source: str
    conversation_id: int
    conversation_key: str
    text: str
    meta: str
    placeholder: str | None
    attempts: int
    fence: int
    owner: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's answer and what it took."""

    content: str
    reasoning: str | None
    model: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    started_at: datetime
    finished_at: datetime


class StoredReply(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Status(msgspec.Struct, frozen=True):
    """Where a message stands: queued, claimed, done or failed."""

    public_id: str
    conversation_key: str
    state: str
    error: str | None
    reply: StoredReply | None


async def accept(session: AsyncSession, incoming: Incoming, now: datetime) -> Accepted:
    """Stores a message to be answered, once for each (source, external_id)."""
    return await _store(session, incoming, now, state="queued")


async def record(session: AsyncSession, incoming: Incoming, deliveries: Sequence[NewDelivery], now: datetime) -> bool:
    """Stores a message that the adapter answers itself, with what it sends; False where it was known."""
    accepted = await _store(session, incoming, now, state="done")
    if accepted.created:
        accepted.message.done_at = now
        await outbox.add(session, deliveries, now, inbox_id=accepted.message.id)
    return accepted.created


def _known(incoming: Incoming) -> Select[Inbox]:
    return select(Inbox).where(Inbox.source == incoming.source, Inbox.external_id == incoming.external_id)


async def _store(session: AsyncSession, incoming: Incoming, now: datetime, *, state: str) -> Accepted:
    known = _known(incoming)
    if message := await session.scalar(known):
        return Accepted(message, created=False)
    conversation = await open_conversation(session, incoming.conversation_key, now)
    created = await insert_new(
        session, Inbox,
        public_id=public_id("msg"), source=incoming.source, external_id=incoming.external_id,
        body_hash=incoming.body_hash, conversation_id=conversation.id, text=incoming.text, meta=incoming.meta,
        state=state, fence=0, attempts=0, created_at=now,
    )  # fmt: skip
    return Accepted((await session.scalars(known)).one(), created)


async def claim(session: AsyncSession, owner: str, now: datetime, lease: timedelta) -> Claim | None:
    """Takes the oldest message whose conversation has no earlier one unfinished; None where there is none."""
    earlier = aliased(Inbox)
    blocked = exists().where(
        earlier.conversation_id == Inbox.conversation_id, earlier.id < Inbox.id, earlier.state.in_(UNFINISHED)
    )
    beside = aliased(Inbox)  # rows may become visible out of order: then a newer one can be in flight
    in_flight = exists().where(beside.conversation_id == Inbox.conversation_id, beside.state == "claimed")
    waiting = and_(Inbox.state == "queued", ~blocked, ~in_flight)
    left_behind = and_(Inbox.state == "claimed", Inbox.lease_until <= now)
    due = or_(Inbox.not_before.is_(None), Inbox.not_before <= now)
    candidate = (
        select(Inbox, Conversation.key)
        .join(Conversation, Conversation.id == Inbox.conversation_id)
        .where(Inbox.state.in_(UNFINISHED), or_(waiting, left_behind), due)
        .order_by(Inbox.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Inbox)
    )
    row = (await session.execute(candidate)).first()
    if row is None:
        return None
    message, key = row
    message.state, message.owner, message.lease_until = "claimed", owner, now + lease
    message.fence, message.attempts = message.fence + 1, message.attempts + 1
    try:
        await session.flush()
    except IntegrityError:  # another process was faster in this conversation
        await session.rollback()
        return None
    return Claim(
        message.id, message.public_id, message.source, message.conversation_id, key, message.text, message.meta,
        message.placeholder, message.attempts, message.fence, owner, message.created_at,
    )  # fmt: skip


def _held(claim: Claim) -> Update:
    """An update of the row, as long as the claim holds."""
    return update(Inbox).where(Inbox.id == claim.id, Inbox.state == "claimed", Inbox.fence == claim.fence)


async def _change(session: AsyncSession, statement: Update) -> bool:
    return (await session.execute(statement.returning(Inbox.id))).first() is not None


async def renew(session: AsyncSession, claim: Claim, now: datetime, lease: timedelta) -> bool:
    """Keeps the claim; False where it is lost."""
    return await _change(session, _held(claim).values(lease_until=now + lease))


async def finish(
    session: AsyncSession, claim: Claim, reply: Reply, deliveries: Sequence[NewDelivery], now: datetime
) -> None:
    """Stores both messages, the usage and what is to be sent, and ends the row. Raises ClaimLost."""
    asked = Message(
        conversation_id=claim.conversation_id, parent_id=await last_message_id(session, claim.conversation_id),
        role="user", content=claim.text, created_at=claim.created_at,
    )  # fmt: skip
    session.add(asked)
    await session.flush()
    answer = Message(
        conversation_id=claim.conversation_id, parent_id=asked.id, role="assistant", content=reply.content,
        reasoning=reply.reasoning, prompt_tokens=reply.prompt_tokens, cached_tokens=reply.cached_tokens,
        completion_tokens=reply.completion_tokens, model=reply.model, finish_reason=reply.finish_reason,
        created_at=now, started_at=reply.started_at, finished_at=reply.finished_at,
    )  # fmt: skip
    session.add(answer)
    await session.flush()
    await _end(session, claim, state="done", reply_id=answer.id, done_at=now)
    await outbox.add(session, deliveries, now, inbox_id=claim.id)
    await record_usage(
        session,
        Usage(
            source=claim.source, conversation_id=claim.conversation_id, model=reply.model,
            prompt_tokens=reply.prompt_tokens, cached_tokens=reply.cached_tokens,
            completion_tokens=reply.completion_tokens, finish_reason=reply.finish_reason,
            started_at=reply.started_at, finished_at=reply.finished_at,
        ),
    )  # fmt: skip


async def fail(
    session: AsyncSession, claim: Claim, reason: str, deliveries: Sequence[NewDelivery], now: datetime
) -> None:
    """Gives the message up, with the reason and what its sender is told. Raises ClaimLost."""
    await _end(session, claim, state="failed", error=reason, done_at=now)
    await outbox.add(session, deliveries, now, inbox_id=claim.id)


async def retry(session: AsyncSession, claim: Claim, not_before: datetime, error: str) -> None:
    """Puts the message back for another try. Raises ClaimLost."""
    await _end(session, claim, state="queued", not_before=not_before, error=error)


async def release(session: AsyncSession, claim: Claim) -> None:
    """Gives the message back as if it had not been tried."""
    await _change(session, _held(claim).values(state="queued", lease_until=None, attempts=claim.attempts - 1))


async def release_all(session: AsyncSession) -> None:
    """Gives back everything that is claimed: for the only process of its database, when it starts."""
    await session.execute(update(Inbox).where(Inbox.state == "claimed").values(state="queued", lease_until=None))


async def _end(session: AsyncSession, claim: Claim, **values: object) -> None:
    if not await _change(session, _held(claim).values(lease_until=None, **values)):
        raise ClaimLost


async def set_placeholder(session: AsyncSession, inbox_id: int, reference: str) -> None:
    """Notes where the answer is shown while it is written."""
    await session.execute(update(Inbox).where(Inbox.id == inbox_id).values(placeholder=reference))


async def by_public_id(session: AsyncSession, identifier: str) -> Inbox | None:
    return await session.scalar(select(Inbox).where(Inbox.public_id == identifier))


async def is_known(session: AsyncSession, incoming: Incoming) -> bool:
    """Whether this message of its source is a row already."""
    return await session.scalar(_known(incoming)) is not None


async def status(session: AsyncSession, inbox_id: int) -> Status:
    """Where a message stands, with its reply."""
    query = (
        select(Inbox, Conversation.key, Message)
        .join(Conversation, Conversation.id == Inbox.conversation_id)
        .outerjoin(Message, Message.id == Inbox.reply_id)
        .where(Inbox.id == inbox_id)
    )
    message, key, answer = (await session.execute(query)).one()
    reply = None if answer is None else StoredReply(
        answer.content, answer.finish_reason or "", answer.prompt_tokens or 0,
        answer.cached_tokens or 0, answer.completion_tokens or 0,
    )  # fmt: skip
    return Status(message.public_id, key, message.state, message.error if message.state == "failed" else None, reply)
