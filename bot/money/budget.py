"""Which notices of the budgets are due, and until when what is left will last. Pure.

Two budgets: the quota of compute-hours, from one renewal to the next, and the yuan of a calendar month.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from bot.money.accounts import HOUR, Account, Charge, Terms
from bot.money.days import DAY, local_day, next_month
from bot.money.notice import Amount, Kind, Left, Notice

SHARES = (0.5, 0.8, 0.95, 1.0)
TRIAL_DAYS = (7, 3, 1)  # before the trial's end
WEEK = 7 * DAY  # that the pace is the mean of
LEAST_SEEN = DAY  # of the ledger, below which nothing is foretold
FAR = 31 * DAY  # what lasts longer is renewed before it ends
KINDS = (Kind.BUDGET, Kind.FORECAST, Kind.FIRST_PAID, Kind.TRIAL_END)

T = TypeVar("T")
Name = Literal["compute-hours", "yuan"]
Raised = Collection[tuple[str, str]]  # (kind, key) of what operators have been told


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of a budget is spent in its present period, in compute-hours or yuan, as `budget` says.

    `period`: its name, `end`: its end. `a_day`: the pace of the last week, None where less than a day was seen.
    """

    budget: Name
    period: str
    end: datetime
    spent: float
    whole: float
    a_day: float | None

    @property
    def share(self) -> float:
        return self.spent / self.whole

    @property
    def amount(self) -> Amount:
        return Amount(compute_hours=self.spent) if self.budget == "compute-hours" else Amount(yuan=self.spent)

    def runs_out(self, now: datetime) -> datetime | None:
        """When it is spent at this pace; None where it is already, or not before its period ends."""
        left = self.whole - self.spent
        if left <= 0 or not self.a_day or left / self.a_day >= (self.end - now) / DAY:
            return None
        return now + left / self.a_day * DAY


def standings(account: Account, terms: Terms, now: datetime) -> Iterator[Standing]:
    """The budgets that there are: the quota while it is known and not over, the yuan where the settings limit them."""
    over = account.trial_ends_at is not None and account.trial_ends_at <= now
    if account.left is not None and account.initial > 0 and not over:
        yield Standing(
            "compute-hours", account.period.label, account.period.end, account.initial - max(account.left, 0.0),
            account.initial, _a_day(account, now, lambda one: one.hours * (one.compute_hours_per_hour or 0.0)),
        )  # fmt: skip
    if terms.yuan_per_month:
        yield Standing(
            "yuan", f"{local_day(now, terms.zone):%Y-%m}", next_month(now, terms.zone), _yuan(account, terms, now),
            terms.yuan_per_month, _a_day(account, now, _yuan_of),
        )  # fmt: skip


def _yuan_of(charge: Charge) -> float:
    return charge.yuan + charge.disk_yuan


def _yuan(account: Account, terms: Terms, now: datetime) -> float:
    """This month's. A charge ends at midnight, so none is of two months."""
    first = local_day(now, terms.zone).replace(day=1)
    return sum(_yuan_of(one) for one in account.charges if one.day >= first)


def _a_day(account: Account, now: datetime, amount: Callable[[Charge], float]) -> float | None:
    since = now - WEEK
    seen = min(WEEK, now - account.charges[0].start) if account.charges else timedelta()
    if seen < LEAST_SEEN:
        return None
    return sum(amount(one) * _share_after(one, since) for one in account.charges) / (seen / DAY)


def _share_after(charge: Charge, since: datetime) -> float:
    if charge.start >= since:
        return 1.0
    return max((charge.end - since) / (charge.end - charge.start), 0.0) if charge.end > charge.start else 0.0


def left(account: Account, terms: Terms, now: datetime, hourly: Amount) -> Left:
    """What may still be spent. `hourly`: what it takes while it runs.

    `until`: when it is spent if the instance runs on, first the quota, then the yuan; None where that can't be told,
    nothing is left, or it is renewed before.
    """
    hours = None if account.left is None else max(account.left, 0.0)
    yuan = max(terms.yuan_per_month - _yuan(account, terms, now), 0.0) if terms.yuan_per_month else None
    at = _quota_until(account, now, hours, hourly.compute_hours) if hours else now
    if at and yuan:
        at = _after(at, yuan, hourly.yuan)
    return Left(hours, yuan, at if hours or yuan else None)


def _quota_until(account: Account, now: datetime, hours: float, hourly: float | None) -> datetime | None:
    at, end = _after(now, hours, hourly), account.period.end
    if not hourly or (at and at <= end):
        return at
    return end if end == account.trial_ends_at else _after(end, account.initial, hourly)


def _after(at: datetime, amount: float, hourly: float | None) -> datetime | None:
    return at + amount / hourly * HOUR if hourly and amount / hourly <= FAR / HOUR else None


def due(account: Account, terms: Terms, now: datetime, *, instance: str, hourly: Amount, raised: Raised,
        stoppable: bool = False) -> list[Notice]:  # fmt: skip
    """The notices that operators have not been given yet: of each budget the highest threshold that is reached.

    `raised`: those of KINDS that they have been given.
    """
    remaining = left(account, terms, now, hourly)
    found = [*_budgets(account, terms, now, raised), *_first_paid(account), *_trial(account, terms, now, raised)]
    return [
        Notice(
            kind=one.kind, key=one.key, instance=instance, epoch=0, at=now, reason=one.reason, cost=one.spent,
            hourly=hourly, left=remaining, deadline=one.deadline, stoppable=stoppable, budget=one.budget,
            period=one.period, share=one.share,
        )
        for one in found
        if (one.kind, one.key) not in raised
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Due:
    kind: Kind
    key: str
    reason: str
    period: str
    budget: Name = "compute-hours"
    spent: Amount | None = None
    share: float | None = None
    deadline: datetime | None = None


def _budgets(account: Account, terms: Terms, now: datetime, raised: Raised) -> Iterator[_Due]:
    for one in standings(account, terms, now):
        named = f"the {one.budget} of {one.period}"
        keys = {share: f"{one.budget}:{one.period}:{share * 100:.0f}" for share in SHARES}
        reached = _highest(Kind.BUDGET, keys, [share for share in SHARES if one.share >= share], raised)
        if reached is not None:
            reason = f"{reached * 100:.0f} % of {named} are spent"
            yield _Due(Kind.BUDGET, keys[reached], reason, one.period, one.budget, one.amount, reached)
        runs_out = one.runs_out(now)
        if runs_out is not None:
            day = local_day(runs_out, terms.zone)
            reason = f"at the pace of the last 7 days {named} are spent on {day}, before they are renewed"
            key = f"{one.budget}:{one.period}"
            yield _Due(Kind.FORECAST, key, reason, one.period, one.budget, one.amount, one.share, runs_out)


def _highest(kind: Kind, keys: Mapping[T, str], reached: Sequence[T], raised: Raised) -> T | None:
    """The last that is reached, unless operators know of it or of one beyond. `keys`: of all, in order."""
    if not reached:
        return None
    beyond = list(keys)[list(keys).index(reached[-1]) :]
    return None if any((kind, keys[one]) in raised for one in beyond) else reached[-1]


def _first_paid(account: Account) -> Iterator[_Due]:
    """The first minute that the quota no longer pays for."""
    period = account.period
    paid = (
        one for one in account.charges
        if one.start >= period.start and one.compute_hours_per_hour and (one.yuan or one.unpriced_hours)
    )  # fmt: skip
    if account.left is not None and account.left <= 0 and next(paid, None):
        reason = f"the compute-hours of {period.label} are spent"
        yield _Due(Kind.FIRST_PAID, f"first-paid:{period.label}", reason, period.label)


def _trial(account: Account, terms: Terms, now: datetime, raised: Raised) -> Iterator[_Due]:
    end = account.trial_ends_at
    if end is None or end <= now:
        return
    label = local_day(end, terms.zone).isoformat()
    keys = {days: f"trial-end:{label}:{days}" for days in TRIAL_DAYS}
    reached = _highest(Kind.TRIAL_END, keys, [days for days in TRIAL_DAYS if end - now <= days * DAY], raised)
    if reached is not None:
        yield _Due(Kind.TRIAL_END, keys[reached], f"the free trial ends on {label}", label, deadline=end)
