"""Group commit: messages that come while the disk is busy with others become one transaction.

A durable commit costs a write to the disk, whatever is in it. So whoever comes meanwhile waits for the next one,
together: the more there are, the less each costs, and a lone message waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.engine.default import DefaultDialect

from storage import inbox
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.inbox import Accepted, Incoming
from storage.models import UserText

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
        self._waiting.append(_Waiting(_named_as_stored(incoming), now, stored))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name="group commit")
        return await stored

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._commit()
        finally:
            self._committing = None
            for one in self._take(len(self._waiting)):  # only where this task is cancelled, with the whole loop
                one.stored.cancel()

    async def _commit(self, group: Sequence[_Waiting] = ()) -> None:
        """A group that ends for all alike; but a message that can't be stored must not cost the others theirs."""
        try:
            async with self._db.write() as session:
                group = group or self._take(GROUP)
                rows = await inbox.accept(session, [one.incoming for one in group], group[-1].at)
        except DatabaseUnavailable as error:
            _fail(group or self._take(len(self._waiting)), error)
        except Exception as error:  # noqa: BLE001 - boundary: it is for those who wait, and none may wait for ever
            if len(group) > 1:
                for one in group:
                    await self._commit([one])
            else:
                _fail(group or self._take(len(self._waiting)), error)
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(group))
            raise
        else:
            for one, row in zip(group, rows, strict=True):
                if not one.stored.done():
                    one.stored.set_result(row)

    def _take(self, most: int) -> list[_Waiting]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for one in group:
        if not one.stored.done():
            one.stored.set_exception(error)


def _named_as_stored(incoming: Incoming) -> Incoming:
    """Rows are found again by these names, in which the columns replace what databases refuse."""
    return replace(
        incoming, external_id=_as_stored(incoming.external_id), conversation_key=_as_stored(incoming.conversation_key)
    )


def _as_stored(name: str) -> str:
    return UserText().process_bind_param(name, DefaultDialect()) or ""
