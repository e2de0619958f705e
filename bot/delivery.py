"""The outbox: what must be sent goes out in order within a lane, and one lane never waits for another.

A sender says how a try ended. What may have arrived is never repeated blindly: it is marked uncertain, and an
operator may replay it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from bot.errors import DswbotError
from storage import outbox
from storage.database import Database
from storage.errors import StorageError
from storage.outbox import Delivery

log = structlog.get_logger()

POLL = 1.0  # seconds after which the outbox is looked at without being woken
BATCH = 32
RETRY_SECONDS = (1, 5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)  # then it is given up


class TryLater(DswbotError):
    """It certainly did not arrive; `after` seconds from now it may."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Undeliverable(DswbotError):
    """It will never arrive."""


class Uncertain(DswbotError):
    """It may have arrived."""


class Sender(Protocol):
    """One way out of the house."""

    async def send(self, delivery: Delivery) -> str | None:
        """Sends once; returns the receiver's reference. Raises TryLater, Undeliverable or Uncertain."""

    def repeatable(self, delivery: Delivery) -> bool:
        """Whether sending it twice does no harm."""


class Unconfigured:
    """Stands in for a channel that is switched off: what it should send waits."""

    async def send(self, delivery: Delivery) -> str | None:
        raise TryLater(f"the channel {delivery.channel} is not configured")

    def repeatable(self, _delivery: Delivery) -> bool:
        return True


class Deliveries:
    """Empties the outbox. `run` is the loop; one a process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._wake = asyncio.Event()
        self.senders: dict[str, Sender] = {}

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Sends until it is cancelled."""
        await self._recover()
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                for delivery in await self._due():
                    group.create_task(self._send(delivery), name=f"deliver {delivery.public_id}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL)

    async def _recover(self) -> None:
        """Decides about what the last process was sending when it died."""
        async with self._db.write() as session:
            for delivery in await outbox.recover(session):
                sender = self.senders.get(delivery.channel)
                if sender and sender.repeatable(delivery):
                    await outbox.mark_retry(session, delivery.id, now(), "the service stopped while sending")
                else:
                    await outbox.mark_uncertain(session, delivery.id, "the service stopped while sending")
                    log.error("a delivery may or may not have arrived", delivery=delivery.public_id)

    async def _due(self) -> list[Delivery]:
        try:
            async with self._db.write() as session:
                return await outbox.claim_due(session, now(), BATCH)
        except StorageError as error:
            log.error("the outbox can't be read; trying again", reason=str(error))
            return []

    async def _send(self, delivery: Delivery) -> None:
        """One try, and what it leads to."""
        sender = self.senders.get(delivery.channel, Unconfigured())
        try:
            reference = await sender.send(delivery)
        except TryLater as error:
            await self._later(delivery, error)
        except Undeliverable as error:
            log.error("a delivery was refused for good", delivery=delivery.public_id, reason=str(error))
            await self._note(partial(outbox.mark_dead, delivery_id=delivery.id, error=str(error)))
        except Uncertain as error:
            await self._uncertain(delivery, str(error))
        except Exception:  # boundary: one delivery must not end the others, and this one may have arrived
            log.exception("a delivery failed unexpectedly", delivery=delivery.public_id)
            await self._uncertain(delivery, "an internal error, see the log")
        else:
            await self._note(partial(outbox.mark_sent, delivery_id=delivery.id, reference=reference, now=now()))
        self._wake.set()  # the next of its lane

    async def _uncertain(self, delivery: Delivery, reason: str) -> None:
        log.error("a delivery may or may not have arrived", delivery=delivery.public_id, reason=reason)
        await self._note(partial(outbox.mark_uncertain, delivery_id=delivery.id, error=reason))

    async def _later(self, delivery: Delivery, error: TryLater) -> None:
        if delivery.attempts > len(RETRY_SECONDS):
            await self._note(partial(outbox.mark_dead, delivery_id=delivery.id, error=str(error)))
            return
        wait = error.after if error.after is not None else RETRY_SECONDS[delivery.attempts - 1]
        next_at = now() + timedelta(seconds=wait)
        await self._note(partial(outbox.mark_retry, delivery_id=delivery.id, next_at=next_at, error=str(error)))
        log.warning("a delivery will be tried again", delivery=delivery.public_id, seconds=wait, reason=str(error))

    async def _note(self, change: Callable[[AsyncSession], Awaitable[None]]) -> None:
        """Writes down how a try ended, however long the database is away."""
        while True:
            try:
                async with self._db.write() as session:
                    await change(session)
                return
            except StorageError as error:
                log.error("a delivery's end can't be written down; trying again", reason=str(error))
                await asyncio.sleep(POLL)
