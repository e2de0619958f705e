"""What an hour takes: learned from how the free quota moved while the instance ran, and which price is in force. Pure.

DSW tells what is left of the quota, not what an hour of a GPU takes of it. What it tells may lag, be rounded, and move
for another instance of the same account, so the rate is the median of many slopes, and none where they disagree.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate, pairwise
from statistics import quantiles

from bot.money.accounts import HOUR, PAID, Terms
from bot.money.quota import risen, steady
from storage.money import Quota
from storage.timeline import Price, Segment

LEAST_HOURS = 1.0  # of running, below which nothing is learned
LEAST_MOVED = 1.0  # compute-hours
MOST_SPREAD = 0.2  # of the rate: how far apart the middle half of the slopes may lie
POINTS = 60  # that slopes are drawn between; their number grows with its square
APART = 1 / 3  # of all hours: between nearer points, lag and rounding outweigh the movement


@dataclass(frozen=True, slots=True)
class Learned:
    """Compute-hours an hour, to three digits; half of the slopes lie within `low` and `high`; from so many `hours`."""

    rate: float
    low: float
    high: float
    hours: float


@dataclass(frozen=True, slots=True)
class _Point:
    """Sums since the first snapshot: hours run, compute-hours gone."""

    hours: float
    gone: float


def learned(quotas: Sequence[Quota], segments: Sequence[Segment], spec: str) -> Learned | None:
    """What an hour of this spec takes of the quota; None where that can't be told yet.

    Both in order; the segments of one instance, which do not overlap.
    """
    points = _thinned(_points(quotas, segments, spec))
    total = points[-1] if points else _Point(0.0, 0.0)
    if total.hours < LEAST_HOURS or total.gone < LEAST_MOVED:
        return None
    least = APART * total.hours
    slopes = [
        (late.gone - early.gone) / (late.hours - early.hours)
        for number, early in enumerate(points)
        for late in points[number + 1 :]
        if late.hours - early.hours >= least
    ]
    low, middle, high = quantiles(slopes, n=4) if len(slopes) > 1 else slopes * 3
    if middle <= 0 or high - low > MOST_SPREAD * middle:
        return None
    return Learned(float(f"{middle:.3g}"), low, high, total.hours)


def _points(quotas: Sequence[Quota], segments: Sequence[Segment], spec: str) -> list[_Point]:
    """One for each snapshot, without the spans in which the quota was renewed or spent, or that tell nothing of it."""
    ours = _Hours.of([one for one in segments if one.state in PAID and one.price.spec == spec])
    others = _Hours.of([one for one in segments if one.state not in ("stopped", *PAID) or _other(one, spec)])
    points = [_Point(0.0, 0.0)]
    for before, after in pairwise(steady(quotas)):
        if risen(before, after) or after.remaining <= 0 or others.between(before.at, after.at):
            continue
        hours, gone = ours.between(before.at, after.at), before.remaining - after.remaining
        points.append(_Point(points[-1].hours + hours, points[-1].gone + gone))
    return points


def _other(segment: Segment, spec: str) -> bool:
    return segment.state in PAID and segment.price.spec != spec


@dataclass(frozen=True, slots=True)
class _Hours:
    """How long segments lasted: `before` has the hours of those that began earlier than each."""

    segments: Sequence[Segment]
    starts: Sequence[datetime]
    before: Sequence[float]

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> "_Hours":
        return cls(
            segments, [one.started_at for one in segments], [0.0, *accumulate(one.minutes / 60 for one in segments)]
        )

    def between(self, start: datetime, end: datetime) -> float:
        return self._until(end) - self._until(start)

    def _until(self, at: datetime) -> float:
        number = bisect_right(self.starts, at) - 1
        if number < 0:
            return 0.0
        return self.before[number] + (min(at, self.segments[number].ended_at) - self.starts[number]) / HOUR


def _thinned(points: Sequence[_Point]) -> list[_Point]:
    """At most POINTS, evenly spread over the hours, the last one among them."""
    step = points[-1].hours / (POINTS - 1)
    found = list(points[:1])
    for point in points[1:]:
        if point.hours - found[-1].hours >= step > 0:
            found.append(point)
    return found if found[-1] == points[-1] else [*found, points[-1]]


def in_force(spec: str, terms: Terms, listed: Price | None, taught: Learned | None) -> Price:
    """Each rate from the settings where they have it, else from the list, else learned.

    `source` and `seen_at` are those of the yuan, or of the compute-hours where no yuan are known.
    """
    given = Price("", terms.yuan_per_hour, terms.compute_hours_per_hour, "settings")
    ranked = (given, listed or Price(), Price("", None, taught.rate if taught else None, "learned"))
    yuan = next((one for one in ranked if one.yuan_per_hour is not None), Price())
    compute = next((one for one in ranked if one.compute_hours_per_hour is not None), Price())
    named = yuan if yuan.source else compute
    return Price(spec, yuan.yuan_per_hour, compute.compute_hours_per_hour, named.source, named.seen_at)


def completed(segments: Sequence[Segment], quotas: Sequence[Quota]) -> list[Segment]:
    """The same, with the compute-hours an hour that have been learned where a segment was seen before they were."""
    lacking = {one.price.spec for one in segments if one.price.compute_hours_per_hour is None}
    rates = {spec: taught.rate for spec in lacking if (taught := learned(quotas, segments, spec))}
    return [_with_rate(one, rates.get(one.price.spec)) for one in segments]


def _with_rate(segment: Segment, rate: float | None) -> Segment:
    if rate is None or segment.price.compute_hours_per_hour is not None:
        return segment
    return replace(segment, price=replace(segment.price, compute_hours_per_hour=rate))
