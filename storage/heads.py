"""Heads of queues: what nothing of its conversation or lane waits before (see `storage.models`)."""

from collections.abc import Hashable
from typing import TypeVar

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import Inbox, Outbox

Queue = TypeVar("Queue", bound=Hashable)


def takes_head(taken: set[Queue], queue: Queue) -> bool:
    """Whether what is added to a queue now is its head. It is taken from then on."""
    free = queue not in taken
    taken.add(queue)
    return free


async def promote(session: AsyncSession, table: type[Inbox] | type[Outbox], *waiting: ColumnElement[bool]) -> None:
    """Makes the oldest row that waits in a queue its head. `waiting`: which rows those are."""
    first = select(func.min(table.id)).where(*waiting).scalar_subquery()
    await session.execute(update(table).where(table.id == first, ~table.head).values(head=True))
