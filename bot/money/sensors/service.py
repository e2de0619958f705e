"""The service's own work, as it knows it: requests, open streams, and model downloads."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from bot.money.evidence import Signal
from bot.money.sensors.memory import LastUse


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the model. `last_request`: when one last came or an answer last ended."""

    generating: int
    waiting: int
    last_request: datetime | None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Requests:
    """Whether messages are being answered or wait."""

    name = "requests"

    def __init__(self, workload: Callable[[], Awaitable[Workload]]) -> None:
        self._workload = workload
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        now = await self._workload()
        busy = now.generating > 0 or now.waiting > 0
        reason = f"{_count(now.generating, 'answer')} under way, {now.waiting} waiting" if busy else "no message waits"
        return Signal(self.name, busy, reason, at, self._last_use.seen(at, at if busy else now.last_request))


class Streams:
    """Whether somebody is being sent an answer. `opened`: how many streams are open."""

    name = "streams"

    def __init__(self, opened: Callable[[], int]) -> None:
        self._opened = opened
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        count = self._opened()
        reason = f"{_count(count, 'stream')} open" if count else "no stream is open"
        return Signal(self.name, count > 0, reason, at, self._last_use.seen(at, at if count else None))


class Downloads:
    """Whether models are being downloaded. `running`: their names."""

    name = "downloads"

    def __init__(self, running: Callable[[], Sequence[str]]) -> None:
        self._running = running
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        names = self._running()
        reason = f"downloading {', '.join(names)}" if names else "nothing is being downloaded"
        return Signal(self.name, bool(names), reason, at, self._last_use.seen(at, at if names else None))
