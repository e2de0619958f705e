"""When stopping pays, learned from the gaps between past uses. Pure; it never looks beyond the present."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import accumulate

MINUTE = timedelta(minutes=1)
DAY_HOURS = 24.0
SATURDAY = 5
QUANTILES = 20  # pieces that the prior is cut into
FEW_WAKES = 0.02  # of the cost: what a suggestion gives away for fewer wakes
WORTH_SAYING = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Gap:
    """From one use to the next, whether or not the machine was stopped in between.

    `after` and `ended_by`: the signals that showed the use before it, and the one that ended it.
    """

    start: datetime
    length: timedelta
    ended_by: str = ""
    after: str = ""

    @property
    def end(self) -> datetime:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Similarity:
    """How much a past gap tells about this one, by the local time at which both began, and after what."""

    hours: float = 1.5  # apart, at which it counts e^-1/2
    other_hours: float = 0.1  # at least, whenever it was
    other_kind_of_day: float = 0.4  # a weekday's gap for one at the weekend
    other_use: float = 0.2  # the gap after a training for the one after a message
    half_life: timedelta = timedelta(days=21)
    least: float = 8.0  # gaps' worth of evidence, below which nothing is learned
    prior: float = 3.0  # gaps that the prior counts as


SIMILARITY = Similarity()


@dataclass(frozen=True, slots=True)
class Estimate:
    """`limit`: idle time, from the gap's beginning on, after which a stop pays. `remaining`: idle time still expected.

    `learned` is False where past gaps tell too little; then it is the limit of who knows nothing (ski rental).
    """

    limit: timedelta
    remaining: timedelta | None
    evidence: float  # gaps' worth
    learned: bool


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Weighted gaps by length, in minutes; sums from the shortest on."""

    minutes: Sequence[float]
    weights: Sequence[float]  # summed up
    products: Sequence[float]  # summed up, of weight and length

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "_Lengths":
        """`pairs`: length and weight."""
        ordered = sorted(pairs)
        return cls(
            [length for length, _ in ordered],
            [0.0, *accumulate(weight for _, weight in ordered)],
            [0.0, *accumulate(length * weight for length, weight in ordered)],
        )

    def cost(self, limit: float, wake: float) -> float:
        """Minutes paid in all of them, if each is waited out for `limit` and then ended by a stop and a wake."""
        ended = bisect_right(self.minutes, limit)
        return self.products[ended] + (self.weights[-1] - self.weights[ended]) * (limit + wake)


def best_limit(gaps: Sequence[Gap], this: Gap, *, zone: tzinfo, wake: timedelta, floor: timedelta, ceiling: timedelta,
               similarity: Similarity = SIMILARITY) -> Estimate:  # fmt: skip
    """After how much idleness a stop pays, in `this` gap, which lasts until now at least.

    Waiting on costs a minute a minute until the next use, a stop costs `wake` when that comes. Whichever limit would
    have been cheapest in the similar past gaps that lasted as long as this one has so far, is best now.
    """
    age = max(this.length, timedelta())
    weighed = [
        (gap.length / MINUTE, _weight(gap, this, zone, similarity))
        for gap in gaps
        if gap.end <= this.end and gap.length > age
    ]
    evidence = sum(weight for _, weight in weighed)
    blind = min(max(wake, floor, age), max(ceiling, age))
    if evidence < similarity.least:
        return Estimate(blind, None, evidence, learned=False)
    remaining = sum(weight * length for length, weight in weighed) / evidence - age / MINUTE
    prior = _prior(wake / MINUTE, age / MINUTE, similarity.prior)
    lengths = _Lengths.of([*weighed, *prior])
    first = math.ceil(max(floor, age) / MINUTE)
    last = max(first, math.floor(ceiling / MINUTE))
    best = min(range(first, last + 1), key=lambda limit: lengths.cost(limit, wake / MINUTE))
    return Estimate(best * MINUTE, remaining * MINUTE, evidence, learned=True)


def _weight(gap: Gap, this: Gap, zone: tzinfo, similarity: Similarity) -> float:
    then, here = gap.start.astimezone(zone), this.start.astimezone(zone)
    apart = abs((then.hour + then.minute / 60) - (here.hour + here.minute / 60))
    apart = min(apart, DAY_HOURS - apart)
    weight = max(math.exp(-((apart / similarity.hours) ** 2) / 2), similarity.other_hours)
    if (then.weekday() >= SATURDAY) != (here.weekday() >= SATURDAY):
        weight *= similarity.other_kind_of_day
    if gap.after != this.after:
        weight *= similarity.other_use
    return weight * math.pow(0.5, max(this.start - gap.start, timedelta()) / similarity.half_life)


def _prior(wake: float, age: float, weight: float) -> list[tuple[float, float]]:
    """Gaps as somebody expects them who knows nothing but what a wake costs: `wake` is then the best limit.

    They last longer than t with probability (1 + t / wake)^-2, so that at t = wake one ends in the next minute with
    probability 1 / wake: there waiting on costs as much as it may save. Those are left out that are shorter than `age`.
    """
    left = (1 + age / wake) ** -2
    shares = [(piece + 0.5) / QUANTILES * left for piece in range(QUANTILES)]
    return [(wake * (share**-0.5 - 1), weight / QUANTILES) for share in shares]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A better idle.after than the present one, by what the past weeks would have paid with it."""

    after: timedelta
    saved: timedelta
    yuan: float | None
    more_wakes: int
    weeks: int

    def __str__(self) -> str:
        minutes, hours = round(self.after / MINUTE), self.saved / timedelta(hours=1)
        yuan = f" (¥{self.yuan:.0f})" if self.yuan is not None else ""
        weeks = "week" if self.weeks == 1 else f"{self.weeks} weeks"
        wakes = f"{abs(self.more_wakes)} {'more' if self.more_wakes >= 0 else 'fewer'} wake"
        plural = "" if abs(self.more_wakes) == 1 else "s"
        return f"{minutes} min would have saved {hours:.0f} h{yuan} in the last {weeks}, with {wakes}{plural}"


def suggest(gaps: Sequence[Gap], now: datetime, *, present: timedelta, wake: timedelta, floor: timedelta,
            warn_for: timedelta = timedelta(), yuan_per_hour: float | None = None,
            weeks: int = 4) -> Suggestion | None:  # fmt: skip
    """A better idle.after than `present`; None where none saves an hour. `warn_for`: from then until the stop."""
    recent = [gap for gap in gaps if gap.end <= now and gap.end > now - timedelta(weeks=weeks)]
    lengths = _Lengths.of([(gap.length / MINUTE, 1.0) for gap in recent])
    delay, cost = warn_for / MINUTE, wake / MINUTE
    choices = range(math.ceil(floor / MINUTE), max(120, math.ceil(present / MINUTE)) + 1)
    least = min(lengths.cost(choice + delay, cost) for choice in choices)
    after = max(choice for choice in choices if lengths.cost(choice + delay, cost) <= least * (1 + FEW_WAKES))
    saved = (lengths.cost(present / MINUTE + delay, cost) - lengths.cost(after + delay, cost)) * MINUTE
    if saved < WORTH_SAYING:
        return None
    wakes, wakes_now = (sum(gap.length > limit + warn_for for gap in recent) for limit in (after * MINUTE, present))
    yuan = None if yuan_per_hour is None else saved / timedelta(hours=1) * yuan_per_hour
    return Suggestion(after * MINUTE, saved, yuan, wakes - wakes_now, weeks)
