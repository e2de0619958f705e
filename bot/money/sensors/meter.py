"""Rates from counters that only grow: bytes received, seconds computed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

SETTLE = 1.0  # seconds between the two readings of a first look
GAP = 300.0  # seconds after which a mean says little of what happened

Counters = Mapping[str, float]  # by where they were read: an interface, a cgroup
Clock = Callable[[], float]  # seconds, monotonic
Pause = Callable[[float], Awaitable[object]]  # for seconds


@dataclass(frozen=True, slots=True)
class Rate:
    """How much a second, over so many seconds. `gap`: something before that was not seen."""

    per_second: float
    seconds: float
    gap: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    counters: Counters


class Meter:
    """The rate of counters since the last look, all added up.

    The first look takes two readings, SETTLE apart; so does one after which no counter can be compared: all have
    jumped backwards or are others than before.
    """

    def __init__(
        self, read: Callable[[], Counters], *, clock: Clock = time.monotonic, pause: Pause = asyncio.sleep
    ) -> None:
        self._read = read
        self._clock = clock
        self._pause = pause
        self._last: _Reading | None = None

    async def rate(self) -> Rate:
        """Raises what `read` raises."""
        before = self._last
        if before is None:
            before = self._take()
        if self._clock() - before.at < SETTLE:
            await self._pause(SETTLE)
        new = self._take()
        grown = _growth(before.counters, new.counters)
        if grown is None:
            await self._pause(SETTLE)
            before, new = new, self._take()
            grown = _growth(before.counters, new.counters) or 0.0
        seconds = max(new.at - before.at, SETTLE)
        return Rate(grown / seconds, seconds, gap=seconds > GAP)

    def _take(self) -> _Reading:
        self._last = _Reading(self._clock(), dict(self._read()))
        return self._last


def _growth(before: Counters, new: Counters) -> float | None:
    """By how much the counters that can be compared grew; None if none can, though there are some."""
    grown = [new[name] - before[name] for name in new.keys() & before.keys() if new[name] >= before[name]]
    if not grown and (new or before):
        return None
    return sum(grown)
