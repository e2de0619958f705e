"""What the idle policy remembers, whose turn it is to act on it, and the idle spells to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage import models
from storage.errors import ClaimLost
from storage.upsert import insert_new


@dataclass(frozen=True, slots=True)
class Turn:
    """One gateway's turn to act. `memory` is the policy's own, empty before the first."""

    instance: str
    owner: str
    fence: int
    memory: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What was last decided, and why, for people to read."""

    memory: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Spell:
    """A gap between two uses. `after` and `ended_by`: what they were."""

    started_at: datetime
    ended_at: datetime
    after: str
    ended_by: str


async def take_turn(session: AsyncSession, instance: str, owner: str, now: datetime, lease: timedelta) -> Turn | None:
    """This gateway's turn, for as long as the lease; None while it is another's."""
    table = models.Watch
    await insert_new(session, table, instance=instance, memory="", reason="", owner=None, lease_until=None, fence=0,
                     decided_at=now)  # fmt: skip
    free = (table.owner == owner) | table.owner.is_(None) | (table.lease_until <= now)
    mine = (
        update(table)
        .where(table.instance == instance, free)
        .values(owner=owner, lease_until=now + lease, fence=table.fence + 1)
        .returning(table.fence, table.memory)
    )
    row = (await session.execute(mine)).first()
    return Turn(instance, owner, row.fence, row.memory) if row else None


async def decide(session: AsyncSession, turn: Turn, memory: str, reason: str, now: datetime) -> None:
    """Keeps what was decided. Raises ClaimLost where it is no longer this gateway's turn."""
    table = models.Watch
    mine = update(table).where(table.instance == turn.instance, table.fence == turn.fence)
    changed = await session.execute(mine.values(memory=memory, reason=reason, decided_at=now).returning(table.instance))
    if changed.first() is None:
        raise ClaimLost


async def give_up_turn(session: AsyncSession, instance: str, owner: str) -> None:
    """Lets another gateway act at once."""
    table = models.Watch
    await session.execute(update(table).where(table.instance == instance, table.owner == owner).values(owner=None))


async def decided(session: AsyncSession, instance: str) -> Decided | None:
    row = await session.get(models.Watch, instance)
    return Decided(row.memory, row.reason, row.decided_at) if row and row.memory else None


async def note_spell(session: AsyncSession, instance: str, spell: Spell) -> None:
    await insert_new(
        session, models.IdleSpell, instance=instance, started_at=spell.started_at, ended_at=spell.ended_at,
        after=spell.after, ended_by=spell.ended_by,
    )  # fmt: skip


async def spells(session: AsyncSession, instance: str, since: datetime) -> Sequence[Spell]:
    """Those that ended later, in order."""
    table = models.IdleSpell
    query = select(table).where(table.instance == instance, table.ended_at > since).order_by(table.started_at)
    return [Spell(row.started_at, row.ended_at, row.after, row.ended_by) for row in await session.scalars(query)]
