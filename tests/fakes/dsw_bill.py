"""What the fake DSW charges for: a session's started minutes, in compute-hours while the free tier lasts, then yuan."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone

MINUTE = timedelta(minutes=1)
MINUTES_PER_HOUR = 60
CHINA = timezone(timedelta(hours=8))


@dataclass
class Spec:
    """A line of the price list. `compute_hours_per_hour`: 0 where the free tier does not pay for it."""

    name: str = "ecs.gn7i-c8g1.2xlarge"
    yuan_per_hour: float = 9.74
    compute_hours_per_hour: float = 6.991
    accelerator: str = "GPU"
    gpu_type: str = "A10"
    gpus: int = 1
    gpu_memory: float = 24.0
    cpus: int = 8
    memory: float = 30.0
    available: bool = True
    spot_stock: str = "WithStock"
    currency: str = "CNY"


@dataclass
class FreeTier:
    """`monthly`: full again at the first of each month in China."""

    initial: float = 250.0
    unit: str = "CU*H"
    starts_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    ends_at: datetime = datetime(2027, 1, 1, tzinfo=UTC)
    monthly: bool = True


@dataclass
class Bill:
    """`minutes`: all that were started, whoever paid for them."""

    minutes: int = 0
    compute_hours: float = 0.0
    yuan: float = 0.0
    disk_yuan: float = 0.0


@dataclass
class Account:
    """One account with all its instances. `tier` is None where it has no free trial."""

    tier: FreeTier | None = field(default_factory=FreeTier)
    sufficient: bool = True
    bill: Bill = field(default_factory=Bill)
    by_day: dict[str, Bill] = field(default_factory=lambda: defaultdict(Bill))  # in China
    used: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of the free tier, by its periods

    def remaining(self, now: datetime) -> float:
        """Compute-hours of the free tier."""
        if self.tier is None or not self.tier.starts_at <= now < self.tier.ends_at:
            return 0.0
        return max(self.tier.initial - self.used[self._period(now)], 0.0)

    def charge_minute(self, at: datetime, spec: Spec) -> None:
        """For the minute that starts then; what the free tier has no more is paid for in yuan."""
        wanted = spec.compute_hours_per_hour / MINUTES_PER_HOUR
        took = min(wanted, self.remaining(at))
        beyond = 1 - took / wanted if wanted else 1.0
        self.used[self._period(at)] += took
        for bill in (self.bill, self.by_day[_day(at)]):
            bill.minutes += 1
            bill.compute_hours += took
            bill.yuan += beyond * spec.yuan_per_hour / MINUTES_PER_HOUR

    def charge_disk(self, at: datetime, span: timedelta, yuan_per_hour: float) -> None:
        for bill in (self.bill, self.by_day[_day(at)]):
            bill.disk_yuan += yuan_per_hour * (span / timedelta(hours=1))

    def _period(self, at: datetime) -> str:
        return f"{at.astimezone(CHINA):%Y-%m}" if self.tier and self.tier.monthly else "all"


def _day(at: datetime) -> str:
    return f"{at.astimezone(CHINA):%Y-%m-%d}"
