"""What the instance's time cost: pure accounting over the ledger's segments.

Alibaba bills a session by started minutes, in compute-hours while the free quota lasts and in yuan afterwards. Time
that nobody saw is not counted as paid, but shown. What is left of the quota is what snapshots say; where there is none
it is what the settings say, from the first of each month.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from operator import attrgetter
from zoneinfo import ZoneInfo

from bot.config import Budget
from bot.money.days import CHINA, local_day, midnights
from bot.money.quota import Level, QuotaPeriod, quota_period, readings, steady, trial_end
from storage.money import Quota
from storage.timeline import Segment

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
NONE = timedelta()
# States in which the GPU is occupied. DSW does not say whether starting is paid; that it is, is the safe reading.
PAID = frozenset({"used", "idle", "unwatched", "warming", "starting", "saving", "stopping"})
WAKING = frozenset({"starting", "warming"})


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say of money; the prices are for segments that have none of their own.

    `compute_hours`: the free quota of a month. `disk_yuan_per_hour`: for a disk that is paid for, stopped or not.
    """

    compute_hours: float = 250.0
    compute_hours_per_hour: float | None = None
    yuan_per_hour: float | None = None
    yuan_per_month: float | None = None
    disk_yuan_per_hour: float = 0.0
    zone: tzinfo = UTC

    @classmethod
    def of(cls, budget: Budget, timezone: str) -> "Terms":
        return cls(budget.compute_hours, budget.compute_hours_per_hour, budget.yuan_per_hour, budget.yuan_per_month,
                   budget.disk_yuan_per_hour or 0.0, ZoneInfo(timezone))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Charge:
    """A span within one day of the operator's, and what it took. The last of a session has what rounding up adds.

    `hours`: what is billed. `compute_hours` came from the quota, `yuan` is what went beyond it. The rates are those in
    force, None where unknown.
    """

    instance: str
    state: str
    start: datetime
    end: datetime
    day: date
    hours: float = 0.0
    compute_hours: float = 0.0
    yuan: float = 0.0
    disk_yuan: float = 0.0
    unpriced_hours: float = 0.0
    compute_hours_per_hour: float | None = None
    yuan_per_hour: float | None = None

    @property
    def minutes(self) -> float:
        """Of the clock."""
        return (self.end - self.start) / MINUTE


@dataclass(frozen=True, slots=True)
class Account:
    """All charges in order. `levels`: the quota after each, empty where there is none; `initial`: the whole of it.

    `period`: the quota's present one. `trial_ends_at`: when there will be none any more, where that is known.
    """

    charges: tuple[Charge, ...]
    levels: tuple[Level, ...]
    initial: float
    period: QuotaPeriod
    trial_ends_at: datetime | None = None

    @property
    def left(self) -> float | None:
        """Of the quota, in compute-hours."""
        return self.levels[-1].left if self.levels else None


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of a segment, and what of it is billed."""

    segment: Segment
    billed: timedelta


def account(segments: Sequence[Segment], quotas: Sequence[Quota], terms: Terms, now: datetime) -> Account:
    """Reckons up to `now`. Both in order; they should reach back to the first of a month, or to the oldest snapshot."""
    quotas = steady([quota for quota in quotas if quota.at <= now])
    spans = sorted(_spans(segments), key=lambda span: (span.segment.started_at, span.segment.ended_at))
    first = spans[0].segment.started_at if spans else now
    zone = CHINA if quotas else terms.zone  # what the cloud gives is renewed there, wherever its user is
    refills = readings(quotas, terms.compute_hours, zone, first, now)
    cuts = sorted({level.at for level in refills} | set(midnights(first, now, terms.zone)))
    initial = quotas[-1].initial if quotas else terms.compute_hours
    charges: list[Charge] = []
    levels: list[Level] = []
    left, following = 0.0, 0
    for span in _cut(spans, cuts):
        while following < len(refills) and refills[following].at <= span.segment.started_at:
            levels.append(refills[following])
            left, following = refills[following].left, following + 1
        charges.append(_charge(span, left, terms, free_tier=bool(quotas)))
        if charges[-1].compute_hours:
            left -= charges[-1].compute_hours
            levels.append(Level(charges[-1].end, left))
    levels += refills[following:]
    known = bool(quotas) or any(charge.compute_hours_per_hour for charge in charges)
    return Account(
        tuple(charges),
        tuple(levels) if known else (),
        initial,
        quota_period(quotas, zone, now),
        trial_end(quotas),
    )


def _spans(segments: Sequence[Segment]) -> Iterator[_Span]:
    """The segments, and what rounding each session up to a minute adds."""
    opened: dict[str, tuple[Segment, timedelta]] = {}  # by instance: the session's last segment, and its length
    for segment in sorted(segments, key=attrgetter("started_at")):
        length = segment.ended_at - segment.started_at
        if segment.state not in PAID:
            yield _Span(segment, NONE)
            continue
        yield _Span(segment, length)
        if segment.instance in opened:
            last, before = opened[segment.instance]
            if _goes_on(last, segment):
                length += before
            else:
                yield _rounding(last, before)
        opened[segment.instance] = segment, length
    for last, length in opened.values():
        yield _rounding(last, length)


def _goes_on(last: Segment, segment: Segment) -> bool:
    """Whether it is the same session. What has been seen since DSW was last asked has no number yet."""
    if last.session is None or segment.session is None:
        return last.ended_at == segment.started_at
    return last.session == segment.session


def _rounding(last: Segment, length: timedelta) -> _Span:
    return _Span(replace(last, started_at=last.ended_at), -length % MINUTE)


def _cut(spans: Iterable[_Span], cuts: Sequence[datetime]) -> Iterator[_Span]:
    following = 0
    for span in spans:
        segment = span.segment
        while following < len(cuts) and cuts[following] <= segment.started_at:
            following += 1
        start, cut = segment.started_at, following
        while cut < len(cuts) and cuts[cut] < segment.ended_at:
            yield _part(span, start, cuts[cut])
            start, cut = cuts[cut], cut + 1
        yield span if start == segment.started_at else _part(span, start, segment.ended_at)


def _part(span: _Span, start: datetime, end: datetime) -> _Span:
    part = replace(span.segment, started_at=start, ended_at=end)
    return _Span(part, end - start if span.billed else NONE)


def _charge(span: _Span, left: float, terms: Terms, *, free_tier: bool) -> Charge:
    segment, hours = span.segment, span.billed / HOUR
    price = segment.price
    free = terms.compute_hours_per_hour if price.compute_hours_per_hour is None else price.compute_hours_per_hour
    paid = terms.yuan_per_hour if price.yuan_per_hour is None else price.yuan_per_hour
    if free is None and free_tier and left > 0:
        paid = None  # the quota pays for it, nobody knows yet with how much
    took = min(hours * (free or 0.0), max(left, 0.0))
    beyond = hours - took / free if free else hours
    beyond = 0.0 if beyond < 1e-12 else beyond
    moment = segment.ended_at - timedelta.resolution if segment.started_at == segment.ended_at else segment.started_at
    return Charge(
        segment.instance, segment.state, segment.started_at, segment.ended_at, local_day(moment, terms.zone),
        hours=hours, compute_hours=took, yuan=beyond * (paid or 0.0), unpriced_hours=beyond if paid is None else 0.0,
        disk_yuan=(segment.ended_at - segment.started_at) / HOUR * terms.disk_yuan_per_hour,
        compute_hours_per_hour=free, yuan_per_hour=paid,
    )  # fmt: skip
