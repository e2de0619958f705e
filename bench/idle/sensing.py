"""What the sensors could see of a trace, as the policy is given it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bench.idle.trace import MINUTE, NOBODY, Minute, Trace, Window
from bot.money.evidence import Signal
from bot.money.sensors.gpu_use import PERCENT
from bot.money.sensors.machine import BYTES_PER_SECOND
from bot.money.sensors.machine import CORES as BUSY_CORES
from bot.money.sensors.people import PATIENCE

HOUR = int(PATIENCE / MINUTE)  # minutes that a quiet login counts as use


def inside(windows: list[Window], minute: int) -> Window | None:
    return next((window for window in windows if window.first <= minute < window.end), None)


def login_counts(minute: Minute, number: int, booted: int) -> bool:
    """A login is taken for use for an hour after its last keystroke; nobody can tell a reader from an absentee."""
    return minute.login >= booted and minute.typed != NOBODY and number - minute.typed < HOUR


@dataclass(slots=True)
class Eyes:
    """The sensors of one run of the service: they forget with it when something was last used."""

    trace: Trace
    booted: int = 0
    last_used: dict[str, datetime] = field(default_factory=dict)

    def look(self, number: int, now: datetime, shift: timedelta) -> tuple[Signal, ...]:
        """What was seen of minute `number`. `shift`: how wrong the clock is, which shows `now`."""
        minute = self.trace.minutes[number]
        blind = inside(self.trace.blind, number)
        login = minute.login >= self.booted and minute.login != NOBODY
        seen = {
            "requests": (minute.requests, "answers under way" if minute.requests else "no message waits"),
            "kernels": (minute.kernel, "a cell runs" if minute.kernel else "no kernel computes"),
            "gpu": (minute.gpu >= PERCENT, f"GPU 0 worked up to {minute.gpu:.0f} %"),
            "cpu": (minute.cpu >= BUSY_CORES, f"CPU: {minute.cpu:.2f} cores"),
            "network": (minute.network >= BYTES_PER_SECOND, f"network: {minute.network / 1000:.0f} kB/s"),
            "logins": (
                login_counts(minute, number, self.booted),
                f"ssh session idle {number - minute.typed} min" if login else "nobody is logged in",
            ),
        }
        signals = []
        for name, (busy, reason) in seen.items():
            if blind and blind.what == name:
                signals.append(Signal(name, None, "no answer", now, self._known(name, now)))
                continue
            if name == "logins" and login:
                self.last_used[name] = self.trace.at(minute.typed + 1) + shift
            elif busy:
                self.last_used[name] = now
            signals.append(Signal(name, busy, reason, now, self._known(name, now)))
        return tuple(signals)

    def _known(self, name: str, now: datetime) -> datetime | None:
        last = self.last_used.get(name)
        return min(last, now) if last else None
