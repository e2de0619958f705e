"""What must be sent. Order holds within a lane (one receiver); lanes do not wait for each other."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, exists, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from storage.errors import UnknownName
from storage.heads import promote, takes_head
from storage.models import Outbox, among, public_id

UNFINISHED = ("planned", "sending")


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """`payload` is the sender's own. Order holds within a `lane`; `destination` is the receiver of its lanes."""

    channel: str
    destination: str
    lane: str
    payload: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row of the outbox, taken to be sent.

    `attempts` counts this one and tells it from later ones; `failures` are the tries that the receiver failed.
    """

    id: int
    public_id: str
    owner: str | None
    inbox_id: int | None
    channel: str
    destination: str
    lane: str
    payload: str
    state: str
    attempts: int
    failures: int
    error: str | None


def _delivery(row: Outbox) -> Delivery:
    return Delivery(
        row.id, row.public_id, row.owner, row.inbox_id, row.channel, row.destination, row.lane, row.payload, row.state,
        row.attempts, row.failures, row.error,
    )  # fmt: skip


async def add(
    session: AsyncSession, deliveries: Sequence[NewDelivery], now: datetime, inbox_id: int | None = None
) -> None:
    """Plans deliveries, in this order within their lanes."""
    taken = {lane for lane in {(new.channel, new.lane) for new in deliveries} if await _occupied(session, *lane)}
    session.add_all(
        Outbox(
            head=takes_head(taken, (new.channel, new.lane)),
            public_id=public_id("dlv"), inbox_id=inbox_id, channel=new.channel, destination=new.destination,
            lane=new.lane, payload=new.payload, state="planned", attempts=0, failures=0, next_at=now,
            created_at=now,
        )
        for new in deliveries
    )  # fmt: skip
    await session.flush()


async def _occupied(session: AsyncSession, channel: str, lane: str) -> bool:
    """Whether something of a lane waits or is being sent. Until this transaction ends, the newest of it does not end:
    who ends it must see what is added here."""
    newest = (
        select(Outbox.id)
        .where(Outbox.channel == channel, Outbox.lane == lane, among(Outbox.state, *UNFINISHED))
        .order_by(Outbox.id.desc())
        .limit(1)
        .with_for_update(read=True)
    )
    return await session.scalar(newest) is not None


async def claim_due(session: AsyncSession, owner: str, now: datetime, lease: timedelta, *, channels: Collection[str],
                    limit: int, full: Collection[tuple[str, str]] = ()) -> list[Delivery]:  # fmt: skip
    """Takes the head of each lane that is due, and marks it as being sent.

    `channels`: those that this process has a sender for. `full`: (channel, destination) of receivers that are sent
    enough at once.
    """
    other = aliased(Outbox)
    in_the_way = or_(other.state == "sending", other.id < Outbox.id)
    behind = exists().where(
        other.channel == Outbox.channel, other.lane == Outbox.lane, among(other.state, *UNFINISHED),
        in_the_way,
    )  # fmt: skip
    busy = tuple_(Outbox.channel, Outbox.destination).in_(full)
    due = (
        select(Outbox)
        .where(
            Outbox.head, among(Outbox.state, "planned"), Outbox.next_at <= now, Outbox.channel.in_(channels), ~behind
        )
        .where(*([~busy] if full else []))
        .order_by(Outbox.next_at, Outbox.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = (await session.scalars(due)).all()
    for row in rows:
        row.state, row.attempts = "sending", row.attempts + 1
        row.owner, row.lease_until = owner, now + lease
    await session.flush()
    return [_delivery(row) for row in rows]


async def abandoned(session: AsyncSession, owner: str, now: datetime, *, channels: Collection[str],
                    held: Collection[int] = ()) -> list[Delivery]:  # fmt: skip
    """What another process was sending when it died, or this one's predecessor; but not what this one `held`."""
    left = and_(Outbox.id.not_in(held), or_(Outbox.owner == owner, Outbox.lease_until <= now, Outbox.owner.is_(None)))
    query = (
        select(Outbox)
        .where(among(Outbox.state, "sending"), Outbox.channel.in_(channels), left)
        .order_by(Outbox.id)
        .with_for_update(skip_locked=True)
    )
    return [_delivery(row) for row in await session.scalars(query)]


async def _end(session: AsyncSession, delivery: Delivery, **values: object) -> None:
    """Writes down how a try ended, unless another process has taken the delivery over meanwhile."""
    mine = and_(Outbox.id == delivery.id, Outbox.state == "sending", Outbox.attempts == delivery.attempts)
    await session.execute(update(Outbox).where(mine).values(lease_until=None, **values))
    if values["state"] != "planned":
        lane = Outbox.channel == delivery.channel, Outbox.lane == delivery.lane
        await promote(session, Outbox, *lane, among(Outbox.state, *UNFINISHED))


async def mark_sent(session: AsyncSession, delivery: Delivery, reference: str | None, now: datetime) -> None:
    await _end(session, delivery, state="sent", external_ref=reference, sent_at=now, error=None)


async def mark_retry(session: AsyncSession, delivery: Delivery, next_at: datetime, error: str, *,
                     failed: bool = True) -> None:  # fmt: skip
    """`failed`: whether it counts as one of the tries that the receiver has."""
    failures = delivery.failures + 1 if failed else delivery.failures
    await _end(session, delivery, state="planned", failures=failures, next_at=next_at, error=error)


async def mark_uncertain(session: AsyncSession, delivery: Delivery, error: str) -> None:
    await _end(session, delivery, state="uncertain", error=error)


async def mark_dead(session: AsyncSession, delivery: Delivery, error: str) -> None:
    await _end(session, delivery, state="dead", error=error)


async def due(session: AsyncSession, now: datetime) -> bool:
    """Whether something is being sent, or should be by now."""
    waits = and_(among(Outbox.state, "planned"), Outbox.next_at <= now)
    return bool(
        await session.scalar(select(or_(exists().where(waits), exists().where(among(Outbox.state, "sending")))))
    )


async def unfinished(session: AsyncSession) -> list[Delivery]:
    """Everything that has not certainly arrived, the oldest first."""
    rows = await session.scalars(select(Outbox).where(Outbox.state != "sent").order_by(Outbox.id))
    return [_delivery(row) for row in rows]


async def replay(session: AsyncSession, identifier: str, now: datetime) -> None:
    """Plans an uncertain or dead delivery again. Raises UnknownName."""
    again = (
        update(Outbox)
        .where(Outbox.public_id == identifier, Outbox.state.in_(("uncertain", "dead")))
        .values(state="planned", failures=0, next_at=now, head=True)
        .returning(Outbox.id)
    )
    if (await session.execute(again)).first() is None:
        raise UnknownName(f"There is no uncertain or dead delivery {identifier}; `dswbot outbox list` shows them.")
