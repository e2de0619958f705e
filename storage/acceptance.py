"""Group commit: messages that come while the disk is busy with others become one transaction.

A durable commit costs a write to the disk, whatever is in it. So whoever comes meanwhile waits for the next one,
together: the more there are, the less each costs, and a lone message waits for nobody.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from storage import inbox
from storage.database import Database
from storage.errors import StorageError
from storage.inbox import Accepted, Incoming

GROUP = 256  # messages a transaction


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    incoming: Incoming
    at: datetime
    stored: "asyncio.Future[Accepted]"


class Acceptance:
    """Where messages become rows of the inbox."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def accept(self, incoming: Incoming, now: datetime) -> Accepted:
        """Returns once the message is stored for good. A caller who leaves meanwhile has it stored all the same."""
        stored: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(incoming, now, stored))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name="group commit")
        return await stored

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._commit()
        finally:
            self._committing = None

    async def _commit(self) -> None:
        group: list[_Waiting] = []
        try:
            async with self._db.write() as session:
                group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
                rows = await inbox.accept(session, [one.incoming for one in group], group[-1].at)
        except StorageError as error:
            for one in group or self._take_all():
                if not one.stored.done():
                    one.stored.set_exception(error)
            return
        for one, row in zip(group, rows, strict=True):
            if not one.stored.done():
                one.stored.set_result(row)

    def _take_all(self) -> list[_Waiting]:
        """Nobody's turn came: the database does not answer at all."""
        everybody = list(self._waiting)
        self._waiting.clear()
        return everybody
