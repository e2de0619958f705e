"""What must be sent. Order holds within a lane (one receiver); lanes do not wait for each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage.errors import UnknownName
from storage.models import Outbox, public_id

UNFINISHED = ("planned", "sending")


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """`payload` is the sender's own, `lane` the receiver."""

    channel: str
    lane: str
    payload: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row of the outbox, taken to be sent. `attempts` counts this one."""

    id: int
    public_id: str
    inbox_id: int | None
    channel: str
    lane: str
    payload: str
    state: str
    attempts: int
    error: str | None


def _delivery(row: Outbox) -> Delivery:
    return Delivery(
        row.id,
        row.public_id,
        row.inbox_id,
        row.channel,
        row.lane,
        row.payload,
        row.state,
        row.attempts,
        row.error,
    )


async def add(
    session: AsyncSession, deliveries: Sequence[NewDelivery], now: datetime, inbox_id: int | None = None
) -> None:
    """Plans deliveries, in this order within their lanes."""
    for new in deliveries:
        session.add(
            Outbox(
                public_id=public_id("dlv"), inbox_id=inbox_id, channel=new.channel, lane=new.lane,
                payload=new.payload, state="planned", attempts=0, next_at=now, created_at=now,
            )
        )  # fmt: skip
        await session.flush()


async def claim_due(session: AsyncSession, now: datetime, limit: int) -> list[Delivery]:
    """Takes the head of each lane that is due, and marks it as being sent."""
    other = aliased(Outbox)
    in_the_way = or_(other.state == "sending", and_(other.id < Outbox.id, other.state == "planned"))
    behind = exists().where(
        other.channel == Outbox.channel, other.lane == Outbox.lane, other.state.in_(UNFINISHED), in_the_way
    )
    due = (
        select(Outbox)
        .where(Outbox.state == "planned", Outbox.next_at <= now, ~behind)
        .order_by(Outbox.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = (await session.scalars(due)).all()
    for row in rows:
        row.state, row.attempts = "sending", row.attempts + 1
    await session.flush()
    return [_delivery(row) for row in rows]


async def recover(session: AsyncSession) -> list[Delivery]:
    """What was being sent when the last process died."""
    rows = await session.scalars(select(Outbox).where(Outbox.state == "sending").order_by(Outbox.id))
    return [_delivery(row) for row in rows]


async def _set(session: AsyncSession, delivery_id: int, **values: object) -> None:
    await session.execute(update(Outbox).where(Outbox.id == delivery_id).values(**values))


async def mark_sent(session: AsyncSession, delivery_id: int, reference: str | None, now: datetime) -> None:
    await _set(session, delivery_id, state="sent", external_ref=reference, sent_at=now, error=None)


async def mark_retry(session: AsyncSession, delivery_id: int, next_at: datetime, error: str) -> None:
    await _set(session, delivery_id, state="planned", next_at=next_at, error=error)


async def mark_uncertain(session: AsyncSession, delivery_id: int, error: str) -> None:
    await _set(session, delivery_id, state="uncertain", error=error)


async def mark_dead(session: AsyncSession, delivery_id: int, error: str) -> None:
    await _set(session, delivery_id, state="dead", error=error)


async def unfinished(session: AsyncSession) -> list[Delivery]:
    """Everything that has not certainly arrived, the oldest first."""
    rows = await session.scalars(select(Outbox).where(Outbox.state != "sent").order_by(Outbox.id))
    return [_delivery(row) for row in rows]


async def replay(session: AsyncSession, identifier: str, now: datetime) -> None:
    """Plans an uncertain or dead delivery again. Raises UnknownName."""
    again = (
        update(Outbox)
        .where(Outbox.public_id == identifier, Outbox.state.in_(("uncertain", "dead")))
        .values(state="planned", attempts=0, next_at=now)
        .returning(Outbox.id)
    )
    if (await session.execute(again)).first() is None:
        raise UnknownName(f"There is no uncertain or dead delivery {identifier}; `dswbot outbox list` shows them.")
