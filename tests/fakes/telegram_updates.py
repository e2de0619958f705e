"""The queue of updates behind getUpdates: numbered, kept until confirmed, handed to one poller at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.fakes.telegram_types import ApiError, CallbackQuery, Message, Params, Update

MAX_LIMIT = 100
MAX_TIMEOUT = 50  # seconds
_OVERLAP = "terminated by other getUpdates request; make sure that only one bot instance is running"
_WEBHOOK_ACTIVE = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"


class UpdateQueue:
    """One bot's updates. Not modelled: their end after 24 hours, the 3 s that a quick repeat waits."""

    def __init__(self, violations: list[str]) -> None:
        self.pending: list[Update] = []
        self.webhook_url = ""
        self._violations = violations
        self._next_id = random.randrange(100_000_000, 900_000_000)
        self._allowed: frozenset[str] = frozenset()  # empty: every kind that the fake sends
        self._poll: asyncio.Future[None] | None = None
        self._poller_is_there: Callable[[], bool] = bool

    def add(self, *, message: Message | None = None, callback_query: CallbackQuery | None = None) -> int:
        """The new update's id; 0 where allowed_updates keeps this kind from the bot."""
        if self._allowed and ("message" if message else "callback_query") not in self._allowed:
            return 0
        update = Update(self._next_id, message, callback_query)
        self._next_id += 1
        self.pending.append(update)
        self._wake(None)
        return update.update_id

    async def poll(self, params: Params, poller_is_there: Callable[[], bool]) -> list[Update]:
        """getUpdates. `poller_is_there` tells, while it waits, whether its connection is still up."""
        if self.webhook_url:
            raise _conflict(_WEBHOOK_ACTIVE)
        self.allow(params)
        self._confirm(params.number("offset"))
        timeout = min(max(params.number("timeout"), 0), MAX_TIMEOUT)
        if timeout and not self.pending:
            await self._wait(timeout, poller_is_there)
        return self.pending[: min(max(params.number("limit", MAX_LIMIT), 1), MAX_LIMIT)]

    def allow(self, params: Params) -> None:
        """Changes what later updates may be; those already queued stay. Not given: as it was before."""
        if "allowed_updates" in params:
            self._allowed = params.decoded("allowed_updates", frozenset[str], "[]")

    def set_webhook(self, url: str, *, drop_pending: bool) -> None:
        self.webhook_url = url
        if drop_pending:
            self.pending.clear()
        if url:
            self._wake(_conflict("terminated by setWebhook request"))

    def close(self) -> None:
        """Sends a waiting poller home with nothing."""
        self._wake(None)

    def _confirm(self, offset: int) -> None:
        if offset < 0 and self.pending:  # counted from the end
            offset += self._next_id
        # An offset from further ahead belongs to some other bot and is not believed.
        if offset <= self._next_id + 10:
            self.pending = [update for update in self.pending if update.update_id >= offset]

    async def _wait(self, timeout: float, poller_is_there: Callable[[], bool]) -> None:
        if self._poll and self._poller_is_there():
            self._violations.append("getUpdates while another getUpdates was waiting")
        self._wake(_conflict(_OVERLAP))
        poll = self._poll = asyncio.get_running_loop().create_future()
        self._poller_is_there = poller_is_there
        await asyncio.wait([poll], timeout=timeout)
        if poll.done():
            poll.result()
        else:
            self._poll = None

    def _wake(self, error: ApiError | None) -> None:
        poll, self._poll = self._poll, None
        if poll and error:
            poll.set_exception(error)
        elif poll:
            poll.set_result(None)


def _conflict(reason: str) -> ApiError:
    return ApiError(409, f"Conflict: {reason}")
