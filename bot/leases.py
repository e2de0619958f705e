"""What this process has claimed stays its own while it lives, and what it has written so far outlives it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from bot.clock import now
from bot.live import LiveTurn
from storage import inbox
from storage.database import Database
from storage.errors import ClaimLost, StorageError
from storage.inbox import Claim

log = structlog.get_logger()

LEASE = timedelta(seconds=15)
RENEW_EVERY = 5.0  # seconds
TICK = 1.0  # seconds between two looks, and what a crash may cost of an answer


@dataclass(slots=True, eq=False)
class _Holding:
    claim: Claim
    live: LiveTurn
    scope: asyncio.Timeout
    renewed: float  # by the loop's clock, which nobody sets


class Leases:
    """One transaction a second, at most, whatever the number of turns."""

    def __init__(self, db: Database, model: Callable[[], str]) -> None:
        """`model`: what writes the answers; drafts are good for the same one only."""
        self._db = db
        self._model = model
        self._holdings: dict[int, _Holding] = {}

    @property
    def held(self) -> list[int]:
        """The ids of the messages that are being answered."""
        return list(self._holdings)

    @contextlib.asynccontextmanager
    async def hold(self, claim: Claim, live: LiveTurn) -> AsyncIterator[None]:
        """Keeps the claim for the time of the block, which ends with ClaimLost where another process takes it."""
        try:
            async with asyncio.timeout(None) as scope:
                self._holdings[claim.id] = _Holding(claim, live, scope, asyncio.get_running_loop().time())
                yield
        except TimeoutError:
            if scope.expired():
                raise ClaimLost from None
            raise
        finally:
            self._holdings.pop(claim.id, None)

    async def run(self) -> None:
        """Ticks until it is cancelled."""
        while True:
            await asyncio.sleep(TICK)
            try:
                await self.tick()
            except StorageError as error:
                log.error("leases and drafts can't be written; trying again", reason=str(error))

    async def tick(self) -> None:
        """Renews what is due, and notes the drafts that have grown."""
        at = asyncio.get_running_loop().time()
        due = [one for one in self._holdings.values() if at - one.renewed >= RENEW_EVERY]
        grown = [(one, one.live.draft(self._model())) for one in self._holdings.values() if one.live.grown]
        if not due and not grown:
            return
        async with self._db.write() as session:
            kept = await inbox.renew(session, [one.claim for one in due], now(), LEASE) if due else set()
            for one, draft in grown:
                await inbox.checkpoint(session, one.claim, draft)
        for one, draft in grown:
            one.live.noted(draft)
        for one in due:
            one.renewed = at
            ended = self._holdings.get(one.claim.id) is not one  # while this was written
            if one.claim.id not in kept and not ended and not one.scope.expired():
                one.scope.reschedule(at)
