"""What must be written down is written down, however long the database is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from storage.errors import DatabaseUnavailable

log = structlog.get_logger()

T = TypeVar("T")

PAUSE = 1.0  # seconds between tries


async def persistently(work: Callable[[], Awaitable[T]], what: str) -> T:
    """Does `work` until the database lets it. Any other error is the caller's."""
    while True:
        try:
            return await work()
        except DatabaseUnavailable as error:
            log.error("the database is away; trying again", waiting=what, reason=str(error))
            await asyncio.sleep(PAUSE)
