"""Charges added up for people to read: by day, week, month and state, beside what was billed. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeVar

from bot.money.accounts import WAKING, Charge
from bot.money.days import DAY
from storage.money import Answer, Billed

Period = Literal["day", "week", "month"]
OVERHEAD = ("starting", "warming", "saving", "stopping")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Minutes:
    """Of the clock, by what the instance did. `overhead`: starting, loading the model, saving and stopping."""

    used: float = 0.0
    idle: float = 0.0
    overhead: float = 0.0
    unwatched: float = 0.0
    stopped: float = 0.0
    unknown: float = 0.0

    @property
    def paid(self) -> float:
        return self.used + self.idle + self.overhead + self.unwatched

    @property
    def all(self) -> float:
        return self.paid + self.stopped + self.unknown


@dataclass(frozen=True, slots=True)
class Line:
    """A sum. `yuan` has `disk_yuan` in it. `billed`: what Alibaba charged, of which we had estimated `foreseen`."""

    label: str
    minutes: Minutes
    hours: float  # as billed: started minutes
    compute_hours: float
    yuan: float
    disk_yuan: float
    unpriced_hours: float
    billed: float | None = None
    foreseen: float = 0.0

    @property
    def priced(self) -> bool:
        """Whether any rate was known where one was needed."""
        return self.compute_hours > 0 or self.running_yuan > 0 or not self.unpriced_hours

    @property
    def running_yuan(self) -> float:
        """Without what the disk costs anyway."""
        return self.yuan - self.disk_yuan

    @property
    def difference(self) -> float | None:
        """Billed beyond the estimate, in yuan, for the days of which there is a bill."""
        return None if self.billed is None else self.billed - self.foreseen


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole of a span of time. `wake_minutes`: paid before it was of use."""

    total: Line
    wake_minutes: float
    idle_yuan: float
    idle_compute_hours: float
    replies: int
    conversations: int

    @property
    def idle_share(self) -> float | None:
        """Of the time paid for."""
        return self.total.minutes.idle / self.total.minutes.paid if self.total.minutes.paid else None

    @property
    def yuan_per_reply(self) -> float | None:
        """All that was paid, idle time too."""
        return self.total.yuan / self.replies if self.replies else None

    @property
    def compute_hours_per_reply(self) -> float | None:
        return self.total.compute_hours / self.replies if self.replies else None


def line(label: str, charges: Iterable[Charge], billed: Iterable[Billed] = ()) -> Line:
    """Adds up. `billed` of the same days."""
    chosen, bills = list(charges), list(billed)
    days = {bill.day for bill in bills}
    return Line(
        label, _minutes(chosen),
        hours=sum(one.hours for one in chosen), compute_hours=sum(one.compute_hours for one in chosen),
        yuan=sum(one.yuan + one.disk_yuan for one in chosen), disk_yuan=sum(one.disk_yuan for one in chosen),
        unpriced_hours=sum(one.unpriced_hours for one in chosen),
        billed=sum(bill.yuan for bill in bills) if bills else None,
        foreseen=sum(one.yuan + one.disk_yuan for one in chosen if one.day in days),
    )  # fmt: skip


def _minutes(charges: Iterable[Charge]) -> Minutes:
    sums: Counter[str] = Counter()
    for charge in charges:
        sums["overhead" if charge.state in OVERHEAD else charge.state] += charge.minutes  # type: ignore[assignment]
    return Minutes(**sums)


def days(first: date, last: date) -> list[date]:
    return [first + number * DAY for number in range((last - first).days + 1)]


def label(day: date, period: Period) -> str:
    """2026-11-24, 2026-W48 or 2026-11."""
    year, week, _ = day.isocalendar()
    return {"day": day.isoformat(), "week": f"{year}-W{week:02d}", "month": f"{day:%Y-%m}"}[period]


def by_period(charges: Iterable[Charge], billed: Iterable[Billed], period: Period, first: date,
              last: date) -> tuple[Line, ...]:  # fmt: skip
    """A line for each period from the first day to the last, empty ones too."""

    def name(day: date) -> str:
        return label(day, period)

    names = list(dict.fromkeys(name(day) for day in days(first, last)))
    charged = _sorted_out((one for one in charges if first <= one.day <= last), lambda one: name(one.day))
    bills = _sorted_out((one for one in billed if first <= one.day <= last), lambda one: name(one.day))
    return tuple(line(one, charged[one], bills[one]) for one in names)


def by_state(charges: Iterable[Charge]) -> tuple[Line, ...]:
    """A line for each state that there was, the dearest first."""
    charged = _sorted_out(charges, lambda one: one.state)
    lines = [line(state, some) for state, some in charged.items()]
    return tuple(sorted(lines, key=lambda one: (-one.yuan, -one.compute_hours, -one.minutes.all)))


def summary(charges: Sequence[Charge], answers: Sequence[Answer], total: Line) -> Summary:
    """`total` of the same charges."""
    idle = line("idle", (one for one in charges if one.state == "idle"))
    return Summary(
        total, sum(one.minutes for one in charges if one.state in WAKING), idle.running_yuan, idle.compute_hours,
        len(answers), len({one.conversation for one in answers}),
    )  # fmt: skip


def _sorted_out(items: Iterable[T], key: Callable[[T], str]) -> defaultdict[str, list[T]]:
    found: defaultdict[str, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found
