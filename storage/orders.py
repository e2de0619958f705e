"""What operators ask of the instance: kept until the watch has taken it, once however often it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage import models
from storage.upsert import insert_new

Kind = Literal["stop", "force", "hold", "release", "wake", "mute"]
KINDS: tuple[Kind, ...] = ("stop", "force", "hold", "release", "wake", "mute")


@dataclass(frozen=True, slots=True)
class Order:
    """`key` tells one press of a button from another. `until`: of a hold, or of a silence.

    "force" is a stop although something is in use, which the operator was told.
    """

    key: str
    instance: str
    kind: Kind
    placed_by: str
    until: datetime | None = None


async def place(session: AsyncSession, order: Order, now: datetime) -> bool:
    """Notes an order; False where this one was placed before."""
    return await insert_new(
        session, models.Order, key=order.key, instance=order.instance, kind=order.kind, until=order.until,
        placed_by=order.placed_by, created_at=now, taken_at=None,
    )  # fmt: skip


async def known(session: AsyncSession, key: str) -> bool:
    """Whether this one was placed before."""
    return await session.scalar(select(models.Order.id).where(models.Order.key == key)) is not None


async def waiting(session: AsyncSession, instance: str) -> Sequence[Order]:
    """What has not been taken, the oldest first."""
    table = models.Order
    rows = await session.scalars(
        select(table).where(table.instance == instance, table.taken_at.is_(None)).order_by(table.id)
    )
    kinds = {kind: kind for kind in KINDS}
    return [Order(row.key, row.instance, kinds[row.kind], row.placed_by, row.until) for row in rows]  # type: ignore[index]


async def take(session: AsyncSession, orders: Sequence[Order], now: datetime) -> None:
    """Marks them as carried out."""
    keys = [order.key for order in orders]
    await session.execute(update(models.Order).where(models.Order.key.in_(keys)).values(taken_at=now))


async def muted_until(session: AsyncSession, instance: str) -> datetime | None:
    """Until when operators want to hear nothing that can wait; the newest word counts."""
    table = models.Order
    newest = select(table.until).where(table.instance == instance, table.kind == "mute").order_by(table.id.desc())
    return await session.scalar(newest.limit(1))
