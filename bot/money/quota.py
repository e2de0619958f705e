"""The free quota of compute-hours: how much of it was left when, and from when to when it is meant to last. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from operator import attrgetter

from bot.money.days import local_day, month_later, month_start, next_month
from storage.money import Quota

FRESH = timedelta(days=3)  # while a snapshot is no older, the next one will tell whether a month renewed the quota
RISE = 0.01  # of the quota: more is a renewal, less a correction


@dataclass(frozen=True, slots=True)
class Level:
    """How many compute-hours were left."""

    at: datetime
    left: float


@dataclass(frozen=True, slots=True)
class QuotaPeriod:
    """From one renewal to the next. `label`: 2026-11, or 2026-11-15 where it was not renewed on the first."""

    label: str
    start: datetime
    end: datetime


def risen(before: Quota, after: Quota) -> bool:
    """Whether it was renewed between two snapshots."""
    return after.remaining - before.remaining > RISE * after.initial


def steady(quotas: Sequence[Quota]) -> list[Quota]:
    """Without those that were wrong: less was left than before, and then as much again, which no renewal gives."""
    around = zip(quotas, quotas[1:], quotas[2:], strict=False)
    wrong = {this for before, this, after in around if risen(this, after) and after.remaining <= before.remaining}
    return [quota for quota in quotas if quota not in wrong]


def trial_end(quotas: Sequence[Quota]) -> datetime | None:
    """When there will be none any more, where that is known."""
    return quotas[-1].ends_at if quotas else None


def readings(quotas: Sequence[Quota], compute_hours: float, zone: tzinfo, first: datetime,
             now: datetime) -> list[Level]:  # fmt: skip
    """How much was left whenever that was seen, and where a month must have renewed it; from `first` on, or before.

    `compute_hours`: what a month renews it to where no snapshot says that.
    """
    end = trial_end(quotas)
    found: list[Level] = []
    month = month_start(min(first, now), zone)
    while month <= now:
        before = next((quota for quota in reversed(quotas) if quota.at < month), None)
        after = next((quota for quota in quotas if quota.at >= month), None)
        if (end is None or month < end) and _renewed(before, after, now):
            seen = before or after
            found.append(Level(month, seen.initial if seen else compute_hours))
        month = next_month(month, zone)
    if end is not None and end <= now:
        found.append(Level(end, 0.0))
    return sorted([*found, *(Level(quota.at, quota.remaining) for quota in quotas)], key=attrgetter("at"))


def _renewed(before: Quota | None, after: Quota | None, now: datetime) -> bool:
    """Whether a month's start did, between the snapshots that are next to it."""
    if before is None:
        return True
    return risen(before, after) if after else now - before.at > FRESH


def quota_period(quotas: Sequence[Quota], zone: tzinfo, now: datetime) -> QuotaPeriod:
    """The calendar month, unless snapshots show that the quota is renewed on another day; or since the trial's end."""
    start, ends_at = month_start(now, zone), trial_end(quotas)
    if ends_at is not None and ends_at <= now:
        return QuotaPeriod(local_day(ends_at, zone).isoformat(), ends_at, month_later(start, zone))
    for before, after in pairwise(quotas):
        if risen(before, after):
            month = month_start(after.at, zone)
            seen = month if before.at < month else after.at
            start = seen if now < month_later(seen, zone) else start
    end, day = month_later(start, zone), local_day(start, zone)
    label = f"{day:%Y-%m}" if start == month_start(start, zone) else day.isoformat()
    return QuotaPeriod(label, start, min(end, ends_at) if ends_at else end)
