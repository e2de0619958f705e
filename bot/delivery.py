"""The outbox: what must be sent goes out in order within a lane, and one lane never waits for another.

A sender says how a try ended. What may have arrived is never repeated blindly: it is marked uncertain, and an
operator may replay it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from bot.errors import DswbotError
from bot.patience import persistently
from storage import outbox
from storage.database import Database
from storage.errors import StorageError
from storage.outbox import Delivery

log = structlog.get_logger()

POLL = 1.0  # seconds after which the outbox is looked at without being woken
STOPPED = "the service stopped while sending"
AT_ONCE = 512  # deliveries
PER_DESTINATION = 8  # of them, so that one receiver that hangs does not hold up the others
LEASE = timedelta(seconds=120)  # longer than any sender takes
LOOK_FOR_ABANDONED = 60.0  # seconds
RETRY_SECONDS = (1, 5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)  # then it is given up


Ending = Callable[[AsyncSession], Awaitable[None]]  # what is stored of how a try ended


class TryLater(DswbotError):
    """It certainly did not arrive, or may arrive twice; `after` seconds from now it is tried again.

    `failed`: whether that counts as one of the tries that its receiver has.
    """

    def __init__(self, message: str, after: float | None = None, *, failed: bool = True) -> None:
        super().__init__(message)
        self.after = after
        self.failed = failed


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


class Deliveries:
    """Empties the outbox of what it has senders for; the rest waits for a gateway that has. One a process."""

    def __init__(self, db: Database, *, owner: str) -> None:
        """`owner`: this gateway's name, the same after a restart."""
        self._db = db
        self._owner = owner
        self._wake = asyncio.Event()
        self._closing = False
        self._sending: dict[int, Delivery] = {}
        self._unwritten: set[int] = set()  # what was sent, but how it ended could not be stored
        self._settled = False  # what the last process of this name left behind
        self.senders: dict[str, Sender] = {}

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        """Begins nothing further; `run` returns once what is being sent has an end."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Sends until it is closed."""
        loop = asyncio.get_running_loop()
        looked = -LOOK_FOR_ABANDONED
        async with asyncio.TaskGroup() as group:
            while not self._closing:
                self._wake.clear()
                if loop.time() - looked >= LOOK_FOR_ABANDONED:
                    await persistently(self._settle_abandoned, "what was being sent")
                    looked = loop.time()
                try:
                    due = await self._due()
                except StorageError as error:  # or it has only not told that they are claimed
                    log.error("the outbox can't be read; trying again", reason=str(error))
                    due, looked = [], -LOOK_FOR_ABANDONED
                for delivery in due:
                    self._sending[delivery.id] = delivery
                    task = group.create_task(self._send(delivery), name=f"deliver {delivery.public_id}")
                    task.add_done_callback(partial(self._over, delivery))
                if not due:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL):  # wait_for of Python 3.11 may lose a cancellation
                            await self._wake.wait()

    def _over(self, delivery: Delivery, _task: asyncio.Task[None]) -> None:
        self._sending.pop(delivery.id)
        self._wake.set()  # the next of its lane

    async def _settle_abandoned(self) -> None:
        """Decides about what a process was sending when it died, and what this one claimed without being told so."""
        async with self._db.write() as session:
            for delivery in await outbox.abandoned(
                session, self._owner, now(), channels=self.senders, held=self._sending
            ):
                if self._never_sent(delivery) or self.senders[delivery.channel].repeatable(delivery):
                    await outbox.mark_retry(session, delivery, now(), STOPPED, failed=False)
                else:
                    await outbox.mark_uncertain(session, delivery, STOPPED)
                    log.error("a delivery may or may not have arrived", delivery=delivery.public_id)
        self._settled = True

    def _never_sent(self, delivery: Delivery) -> bool:
        return self._settled and delivery.owner == self._owner and delivery.id not in self._unwritten

    async def _due(self) -> list[Delivery]:
        receivers = Counter((one.channel, one.destination) for one in self._sending.values())
        full = [receiver for receiver, count in receivers.items() if count >= PER_DESTINATION]
        limit = min(PER_DESTINATION, AT_ONCE - len(self._sending))
        if limit <= 0:
            return []
        async with self._db.write() as session:
            return await outbox.claim_due(
                session, self._owner, now(), LEASE, channels=self.senders, limit=limit, full=full
            )

    async def _send(self, delivery: Delivery) -> None:
        """One try, and what it leads to."""
        sender = self.senders[delivery.channel]
        try:
            note = await self._tried(sender, delivery)
        except Exception:  # boundary: one delivery must not end the others, and this one may have arrived
            log.exception("a delivery failed unexpectedly", delivery=delivery.public_id)
            note = partial(outbox.mark_uncertain, delivery=delivery, error="an internal error, see the log")

        async def write_down() -> None:
            async with self._db.write() as session:
                await note(session)

        try:
            await persistently(write_down, "how a delivery ended")
        except StorageError as error:  # its lease runs out
            self._unwritten.add(delivery.id)
            log.error("how a delivery ended can't be stored", delivery=delivery.public_id, reason=str(error))

    async def _tried(self, sender: Sender, delivery: Delivery) -> Ending:
        """Sends, and says what is to be noted."""
        try:
            reference = await sender.send(delivery)
        except TryLater as error:
            if error.after is None and delivery.failures >= len(RETRY_SECONDS):
                return partial(outbox.mark_dead, delivery=delivery, error=str(error))
            wait = error.after if error.after is not None else RETRY_SECONDS[delivery.failures]
            log.warning("a delivery will be tried again", delivery=delivery.public_id, seconds=wait, reason=str(error))
            next_at = now() + timedelta(seconds=wait)
            return partial(outbox.mark_retry, delivery=delivery, next_at=next_at, error=str(error), failed=error.failed)
        except Undeliverable as error:
            log.error("a delivery was refused for good", delivery=delivery.public_id, reason=str(error))
            return partial(outbox.mark_dead, delivery=delivery, error=str(error))
        except Uncertain as error:
            log.error("a delivery may or may not have arrived", delivery=delivery.public_id, reason=str(error))
            return partial(outbox.mark_uncertain, delivery=delivery, error=str(error))
        return partial(outbox.mark_sent, delivery=delivery, reference=reference, now=now())
