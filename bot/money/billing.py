"""What Alibaba really charged, day by day, put beside the estimate in the ledger.

A day's bill is complete some hours after the day, and may be corrected for two more: so the last three days are read
again whenever another is over. Nothing waits for it, and nothing else fails where it does.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

import structlog

from bot import clock
from bot.errors import ConfigError
from bot.money.days import CHINA, DAY, day_start, local_day
from bot.money.dsw_refusal import Busy, Refused
from bot.money.instance import CallFailed
from storage import money
from storage.database import Database
from storage.errors import StorageError
from storage.money import Billed

log = structlog.get_logger()

SOURCE = "bss"
LATE = timedelta(hours=3)  # after a day's end, when its bill is there
AGAIN = 3  # days that are read anew
REACH = 35  # days that are looked back at most
EVERY = 60.0  # seconds between two looks at the clock; the first is as long after the start
RETRY = timedelta(hours=1)


class Bills(Protocol):
    """As `bot.money.bss.Bss`."""

    async def charged(self, instance: str, day: date) -> float | None:
        """In yuan; None where no bill names the instance on that day. Raises CallFailed."""


class Billing:
    """Keeps one instance's billed days. `run` is the loop. Raises ConfigError where no instance is named."""

    def __init__(self, db: Database, instance: str, bills: Bills, now: Callable[[], datetime] = clock.now) -> None:
        if not instance:
            raise ConfigError("dsw.billing = true asks for the bill of an instance: set dsw.instance_id.")
        self._db = db
        self._instance = instance
        self._bills = bills
        self._now = now
        self._told: set[str] = set()

    async def run(self) -> None:
        """Reads what is due, until it is cancelled."""
        due = self._now()
        while True:
            await asyncio.sleep(EVERY)
            at = self._now()
            if not timedelta() < due - at <= 2 * DAY:  # the clock may have been set back
                due = await self.look(at)

    async def look(self, at: datetime) -> datetime:
        """Notes the bills that are there; returns when to look again."""
        try:
            await self._read(at)
        except CallFailed as error:
            if str(error) not in self._told:  # once, until it succeeds
                log.warning("the bill can't be read", reason=str(error))
            self._told.add(str(error))
            return at + (DAY if isinstance(error, Refused) and not isinstance(error, Busy) else RETRY)
        except StorageError as error:
            log.error("the bill can't be noted; trying again", reason=str(error))
            return at + RETRY
        self._told.clear()
        return day_start(complete(at) + 2 * DAY, CHINA) + LATE

    async def _read(self, at: datetime) -> None:
        last = complete(at)
        async with self._db.read() as session:
            known = [
                one.day for one in await money.billed_days(session, last - REACH * DAY)
                if one.instance == self._instance
            ]  # fmt: skip
        for day in days_due(last, max(known, default=None)):
            yuan = await self._bills.charged(self._instance, day)
            if yuan is not None:
                async with self._db.write() as session:
                    await money.note_billed(session, [Billed(self._instance, day, yuan, SOURCE, at)])


def complete(at: datetime) -> date:
    """The newest day whose bill is there."""
    return local_day(at - LATE, CHINA) - DAY


def days_due(last: date, known: date | None) -> Sequence[date]:
    """The days to read up to the last that is complete; `known`: the newest that was read before."""
    oldest = last - (REACH - 1) * DAY
    first = oldest if known is None else max(oldest, min(known + DAY, last - (AGAIN - 1) * DAY))
    return [first + number * DAY for number in range((last - first).days + 1)]
