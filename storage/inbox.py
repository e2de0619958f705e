"""Messages that were accepted, until each has its reply.

One message of a conversation is in flight at a time, the oldest first; a unique index sees to it. A claim
carries a fence that grows with every claim of the row, so that a process that was paused can't commit over its
successor: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, delete, exists, false, func, literal, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage import models, outbox
from storage.conversations import last_message_id, open_conversations
from storage.errors import ClaimLost, Forgotten
from storage.heads import promote, takes_head
from storage.ledger import Usage, record_usage
from storage.models import Conversation, Inbox, Message, among, public_id
from storage.outbox import NewDelivery
from storage.upsert import insert, insert_all

UNFINISHED = ("queued", "claimed")
NAMED: tuple[Any, ...] = (Inbox.source, Inbox.external_id, Inbox.id, Inbox.public_id, Inbox.body_hash)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message from outside. (source, external_id) is the sender's own name for it; `meta` is the adapter's."""

    source: str
    external_id: str
    conversation_key: str
    text: str
    body_hash: str | None = None
    meta: str = ""

    @property
    def name(self) -> tuple[str, str]:
        return self.source, self.external_id


@dataclass(frozen=True, slots=True)
class Accepted:
    """The stored row; `created` is False where the message was known already, perhaps with another body."""

    id: int
    public_id: str
    body_hash: str | None
    created: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer as far as it was written: the model's tokens, and the text that they gave. `model` wrote it."""

    model: str
    tokens: tuple[int, ...]
    text: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer one message, until the lease runs out. `attempts` counts the tries that failed."""

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
    draft: Draft | None = None


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


async def accept(session: AsyncSession, incoming: Sequence[Incoming], now: datetime) -> list[Accepted]:
    """Stores messages to be answered, each once for its (source, external_id)."""
    return await _store(session, incoming, state="queued", created_at=now)


async def record(session: AsyncSession, incoming: Incoming, deliveries: Sequence[NewDelivery], now: datetime) -> bool:
    """Stores a message that the adapter answers itself, with what it sends; False where it was known."""
    (accepted,) = await _store(session, [incoming], state="done", created_at=now, done_at=now)
    if accepted.created:
        await outbox.add(session, deliveries, now, inbox_id=accepted.id)
    return accepted.created


async def _store(session: AsyncSession, incoming: Sequence[Incoming], *, created_at: datetime,
                 **values: object) -> list[Accepted]:  # fmt: skip
    """A few statements for all: what many send at once costs hardly more than one message."""
    known = await _known(session, incoming)
    first = {one.name: one for one in reversed(incoming) if one.name not in known}
    new = [one for one in incoming if first.get(one.name) is one]
    if new:
        keys = list(dict.fromkeys(one.conversation_key for one in new))
        conversations = await open_conversations(session, keys, created_at)
        taken = await _occupied(session, list(conversations.values()))
        rows = [
            {
                "head": takes_head(taken, conversations[one.conversation_key]),
                "public_id": public_id("msg"), "source": one.source, "external_id": one.external_id,
                "body_hash": one.body_hash, "conversation_id": conversations[one.conversation_key],
                "text": one.text, "meta": one.meta, "fence": 0, "attempts": 0, "created_at": created_at, **values,
            }
            for one in new
        ]  # fmt: skip
        inserted = await insert_all(session, Inbox, rows, *NAMED)
        made = {(row[0], row[1]): Accepted(row[2], row[3], row[4], created=True) for row in inserted}
        known |= made | await _known(session, [one for one in new if one.name not in made])
    return [replace(known[one.name], created=known[one.name].created and first[one.name] is one) for one in incoming]


async def _occupied(session: AsyncSession, conversations: Sequence[int]) -> set[int]:
    """Those of the conversations where a message waits or is in flight."""
    unfinished = exists().where(Inbox.conversation_id == Conversation.id, among(Inbox.state, *UNFINISHED))
    return set(await session.scalars(select(Conversation.id).where(Conversation.id.in_(conversations), unfinished)))


async def _known(session: AsyncSession, incoming: Sequence[Incoming]) -> dict[tuple[str, str], Accepted]:
    """Those of the messages that are rows already."""
    sources: dict[str, list[str]] = {}
    for one in incoming:
        sources.setdefault(one.source, []).append(one.external_id)
    found: dict[tuple[str, str], Accepted] = {}
    for source, names in sources.items():
        query = select(*NAMED).where(Inbox.source == source, Inbox.external_id.in_(names))
        for row in await session.execute(query):
            found[row[0], row[1]] = Accepted(row[2], row[3], row[4], created=False)
    return found


async def count_waiting(session: AsyncSession) -> int:
    """Messages that nobody has taken up yet."""
    waiting = select(func.count()).select_from(Inbox).where(among(Inbox.state, "queued"))
    return await session.scalar(waiting) or 0


async def is_known(session: AsyncSession, incoming: Incoming) -> bool:
    """Whether this message of its source is a row already."""
    return bool(await _known(session, [incoming]))


def waits_behind() -> ColumnElement[bool]:
    """Whether an earlier message of its conversation has not come to its end."""
    earlier = aliased(Inbox)
    same = earlier.conversation_id == Inbox.conversation_id
    return exists().where(same, earlier.id < Inbox.id, among(earlier.state, *UNFINISHED))


async def claim(session: AsyncSession, owner: str, now: datetime, lease: timedelta, *, channels: Collection[str],
                limit: int = 1, held: Collection[int] = ()) -> list[Claim]:  # fmt: skip
    """Takes the oldest messages whose conversations have no earlier one unfinished.

    `channels`: the first words of the sources that this process can reply to. `held`: ids that it is working on,
    whose leases may have run out while the database was away.
    """
    beside = aliased(Inbox)  # rows may become visible out of order: then a newer one can be in flight
    in_flight = exists().where(beside.conversation_id == Inbox.conversation_id, among(beside.state, "claimed"))
    waiting = and_(Inbox.state == "queued", ~waits_behind(), ~in_flight)
    left_behind = and_(Inbox.state == "claimed", Inbox.lease_until <= now, Inbox.id.not_in(held))
    due = or_(Inbox.not_before.is_(None), Inbox.not_before <= now)
    ours = or_(false(), *(or_(Inbox.source == name, Inbox.source.startswith(f"{name}:")) for name in channels))
    heads = (
        select(Inbox)
        .where(Inbox.head, among(Inbox.state, *UNFINISHED), due, ours, or_(waiting, left_behind))
        .order_by(Inbox.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = (await session.scalars(heads)).all()
    for message in rows:
        message.state, message.owner, message.lease_until = "claimed", owner, now + lease
        message.fence += 1
    try:
        await session.flush()
    except IntegrityError:  # another process was faster in one of these conversations
        await session.rollback()
        return []
    return await _claims(session, rows)


async def _claims(session: AsyncSession, rows: Sequence[Inbox]) -> list[Claim]:
    if not rows:
        return []
    query = (
        select(Inbox.id, Conversation.key, models.Draft)
        .join(Conversation, Conversation.id == Inbox.conversation_id)
        .outerjoin(models.Draft, models.Draft.inbox_id == Inbox.id)
        .where(Inbox.id.in_([row.id for row in rows]))
    )
    beside = {number: (key, draft) for number, key, draft in await session.execute(query)}
    return [_claim(row, *beside[row.id]) for row in rows]


def _claim(message: Inbox, key: str, draft: models.Draft | None) -> Claim:
    assert message.owner
    return Claim(
        message.id, message.public_id, message.source, message.conversation_id, key, message.text, message.meta,
        message.placeholder, message.attempts, message.fence, message.owner, message.created_at,
        Draft(draft.model, draft.tokens, draft.text, draft.reasoning) if draft else None,
    )  # fmt: skip


def _holds(claim: Claim) -> ColumnElement[bool]:
    return and_(Inbox.id == claim.id, Inbox.state == "claimed", Inbox.fence == claim.fence)


async def _change(session: AsyncSession, claim: Claim, **values: object) -> bool:
    changing = update(Inbox).where(_holds(claim)).values(**values).returning(Inbox.id)
    return (await session.execute(changing)).first() is not None


async def renew(session: AsyncSession, claims: Collection[Claim], now: datetime, lease: timedelta) -> set[int]:
    """Keeps the claims; returns the ids of those that still held."""
    names = [(claim.id, claim.fence) for claim in claims]
    renewing = (
        update(Inbox)
        .where(tuple_(Inbox.id, Inbox.fence).in_(names), Inbox.state == "claimed")
        .values(lease_until=now + lease)
        .returning(Inbox.id)
    )
    return set(await session.scalars(renewing))


async def checkpoint(session: AsyncSession, claim: Claim, draft: Draft) -> None:
    """Notes how far an answer is, as long as the claim holds."""
    columns = {
        "inbox_id": Inbox.id,
        "model": literal(draft.model, models.UserText()),
        "tokens": literal(draft.tokens, models.TokenIds()),
        "text": literal(draft.text, models.UserText()),
        "reasoning": literal(draft.reasoning, models.UserText()),
    }
    held = select(*columns.values()).where(_holds(claim)).with_for_update(of=Inbox)
    noting = insert(session, models.Draft).from_select(list(columns), held)
    changed = {name: noting.excluded[name] for name in columns if name != "inbox_id"}
    await session.execute(noting.on_conflict_do_update(index_elements=["inbox_id"], set_=changed))


async def finish(
    session: AsyncSession, claim: Claim, reply: Reply, deliveries: Sequence[NewDelivery], now: datetime
) -> None:
    """Stores both messages, the usage and what is to be sent, and ends the row. Raises ClaimLost."""
    await _lock(session, claim)
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
    await _promote(session, claim.conversation_id)
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
    await _lock(session, claim)
    await _end(session, claim, state="failed", error=reason, done_at=now)
    await _promote(session, claim.conversation_id)
    await outbox.add(session, deliveries, now, inbox_id=claim.id)


async def retry(session: AsyncSession, claim: Claim, not_before: datetime, error: str) -> None:
    """Puts the message back for another try, from the beginning. Raises ClaimLost."""
    await _end(session, claim, state="queued", attempts=claim.attempts + 1, not_before=not_before, error=error)


async def _end(session: AsyncSession, claim: Claim, **values: object) -> None:
    if not await _change(session, claim, lease_until=None, **values):
        raise ClaimLost
    await session.execute(delete(models.Draft).where(models.Draft.inbox_id == claim.id))


async def _lock(session: AsyncSession, claim: Claim) -> None:
    """Keeps out who would add a message to the conversation: he must see that this one has ended, or be seen.

    Raises ClaimLost where the conversation was deleted.
    """
    conversation = select(Conversation.id).where(Conversation.id == claim.conversation_id).with_for_update()
    if await session.scalar(conversation) is None:
        raise ClaimLost


async def _promote(session: AsyncSession, conversation: int) -> None:
    await promote(session, Inbox, Inbox.conversation_id == conversation, among(Inbox.state, *UNFINISHED))


async def release(session: AsyncSession, claim: Claim) -> None:
    """Gives the message back as if it had not been tried; its draft stays."""
    await _change(session, claim, state="queued", lease_until=None)


async def release_owned(session: AsyncSession, owner: str) -> None:
    """Gives back what the last process of this name had claimed when it died."""
    mine = and_(among(Inbox.state, "claimed"), Inbox.owner == owner)
    await session.execute(update(Inbox).where(mine).values(state="queued", lease_until=None))


async def set_placeholder(session: AsyncSession, claim: Claim, reference: str | None) -> None:
    """Notes where the answer is shown while it is written; "" before that is known. Raises ClaimLost."""
    if not await _change(session, claim, placeholder=reference):
        raise ClaimLost


async def by_public_id(session: AsyncSession, identifier: str) -> Inbox | None:
    return await session.scalar(select(Inbox).where(Inbox.public_id == identifier))


async def status(session: AsyncSession, inbox_id: int) -> Status:
    """Where a message stands, with its reply. Raises Forgotten."""
    query = (
        select(Inbox, Conversation.key, Message)
        .join(Conversation, Conversation.id == Inbox.conversation_id)
        .outerjoin(Message, Message.id == Inbox.reply_id)
        .where(Inbox.id == inbox_id)
    )
    if (found := (await session.execute(query)).first()) is None:
        raise Forgotten
    message, key, answer = found
    reply = None if answer is None else StoredReply(
        answer.content, answer.finish_reason or "", answer.prompt_tokens or 0,
        answer.cached_tokens or 0, answer.completion_tokens or 0,
    )  # fmt: skip
    return Status(message.public_id, key, message.state, message.error if message.state == "failed" else None, reply)
