"""What the cloud measures of an instance that this service does not run on."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from bot.money.evidence import Signal
from bot.money.instance import Usage
from bot.money.sensors.memory import LastUse

SPAN = timedelta(minutes=5)
LATE = timedelta(minutes=5)  # that the newest measurement may be
GPU_PERCENT, CPU_PERCENT, BYTES_PER_SECOND = 5.0, 10.0, 64 * 1024.0


class Platform:
    """Whether the instance computes or is sent data. `usage`: what was measured since a time."""

    name = "platform"

    def __init__(self, usage: Callable[[datetime], Awaitable[Usage | None]]) -> None:
        self._usage = usage
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        """Raises CallFailed."""
        seen = await self._usage(at - SPAN)
        if seen is None or at - seen.until > LATE:
            return Signal(self.name, None, "the cloud has measured nothing of late", at, self._last_use.seen(at, None))
        figures = (("GPU", seen.gpu, GPU_PERCENT, "%"), ("CPU", seen.cpu, CPU_PERCENT, "%"),
                   ("network", seen.network, BYTES_PER_SECOND, "B/s"))  # fmt: skip
        told = ", ".join(f"{name} {value:.0f} {unit}" for name, value, _, unit in figures if value is not None)
        busy = any(value is not None and value >= limit for _, value, limit, _ in figures)
        reason = f"at most {told} in the last {SPAN / timedelta(minutes=1):.0f} min, by the cloud's measurements"
        return Signal(self.name, busy, reason, at, self._last_use.seen(at, seen.until if busy else None))
