"""What the instance has cost and what is left, for people: read from the ledger, and said in three lines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, tzinfo

from sqlalchemy.ext.asyncio import AsyncSession

from bot.money.accounts import Account, Terms, account
from bot.money.budget import Standing, standings
from bot.money.cost_words import Words, words_for
from bot.money.days import DAY, day_start, local_day, month_start
from bot.money.quota import Level
from bot.money.rates import completed
from bot.money.report import Line, Period, Summary, by_period, by_state, line, summary
from bot.money.talks import Talk, talks
from storage import money
from storage.money import Answer, Billed, Quota
from storage.timeline import Segment

LEAST_SAID = 3  # minutes
REACH = 35 * DAY  # that figures of the present go back: a week's pace, a month's budget, when the quota was renewed
TALKS = 5


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger has of a span. `answers` and `billed` since its first day, the others as far as they matter."""

    segments: Sequence[Segment]
    quotas: Sequence[Quota]
    billed: Sequence[Billed]
    answers: Sequence[Answer]

    def account(self, terms: Terms, now: datetime) -> Account:
        """With what was learned of the rates where the settings say nothing."""
        segments = self.segments
        if terms.compute_hours_per_hour is None:
            segments = completed(segments, self.quotas)
        return account(segments, self.quotas, terms, now)


@dataclass(frozen=True, slots=True)
class CostReport:
    """The days from `first` to `last`. `quota` and `month`: how the two budgets stand now, where there are such.

    `levels`: what was left of the quota since its last renewal. `talks`: the dearest conversations.
    """

    at: datetime
    zone: tzinfo
    by: Period
    first: date
    last: date
    lines: tuple[Line, ...]
    states: tuple[Line, ...]
    talks: tuple[Talk, ...]
    summary: Summary
    quota: Standing | None
    month: Standing | None
    levels: tuple[Level, ...]
    trial_ends_at: datetime | None

    @property
    def empty(self) -> bool:
        return not self.summary.total.minutes.all and self.summary.total.billed is None


NO_BOOKS = Books((), (), (), ())


async def load(session: AsyncSession, terms: Terms, now: datetime, first: date | None = None) -> Books:
    """Reads what the figures of the present need, and those since `first`."""
    day = first or local_day(now, terms.zone)
    start = day_start(day, terms.zone)
    reach = month_start(min(start, now - REACH), terms.zone)
    return Books(
        await money.segments(session, reach), await money.quotas(session, reach),
        await money.billed_days(session, day), await money.answers(session, start),
    )  # fmt: skip


async def cost_report(session: AsyncSession, terms: Terms, now: datetime, *, by: Period = "day",
                      first: date | None = None) -> CostReport:  # fmt: skip
    """The report from that day to today; two weeks, eight weeks or six months where no day is given."""
    first = first or usual(local_day(now, terms.zone), by)
    return report(await load(session, terms, now, first), terms, now, by=by, first=first)


def usual(today: date, by: Period) -> date:
    """The first day of what is of interest."""
    if by == "day":
        return today - 13 * DAY
    return today - (today.weekday() + 7 * 7) * DAY if by == "week" else (today - 150 * DAY).replace(day=1)


def report(books: Books, terms: Terms, now: datetime, *, by: Period, first: date) -> CostReport:
    """The same from what was read; from the ledger's first day on, if that is later."""
    whole = books.account(terms, now)
    last = local_day(now, terms.zone)
    known = [*(one.day for one in whole.charges), *(one.day for one in books.billed)]
    first = min(max(first, min(known, default=first)), last)
    charges = [one for one in whole.charges if first <= one.day <= last]
    billed = [one for one in books.billed if first <= one.day <= last]
    answers = [one for one in books.answers if one.finished_at >= day_start(first, terms.zone)]
    stand = {one.budget: one for one in standings(whole, terms, now)}
    return CostReport(
        now, terms.zone, by, first, last,
        lines=by_period(charges, billed, by, first, last), states=by_state(charges),
        talks=talks(whole.charges, answers)[:TALKS],
        summary=summary(charges, answers, line("", charges, billed)),
        quota=stand.get("compute-hours"), month=stand.get("yuan"), levels=_levels(whole),
        trial_ends_at=whole.trial_ends_at,
    )  # fmt: skip


def _levels(whole: Account) -> tuple[Level, ...]:
    start = whole.period.start
    later = tuple(level for level in whole.levels if level.at >= start)
    before = next((level for level in reversed(whole.levels) if level.at < start), None)
    if before is None or (later and later[0].at == start):
        return later
    return (replace(before, at=start), *later)


def three_lines(report: CostReport, language: str) -> str:
    """What it has cost, what of that was of no use, and what is left. `language`: en, zh, zh-CN, …"""
    words = words_for(language)
    lines = (_cost(report, words), _waste(report, words), _rest(report, words))
    return "\n".join(words.separator.join(line) + words.stop for line in lines)


def headline(report: CostReport, words: Words) -> str:
    """How long it ran in which days, and what that cost."""
    return _cost(report, words)[0]


def _cost(report: CostReport, words: Words) -> list[str]:
    whole, total = report.summary, report.summary.total
    span = words.span(report.first, report.last)
    amount = words.amount(total.compute_hours, total.running_yuan) if total.priced else words.unpriced
    said = [words.ran.format(span=span, hours=_hours(total.minutes.paid), amount=amount)]
    if not total.minutes.paid:
        said = [words.not_run.format(span=span)]
    if total.disk_yuan:
        said.append(words.disk.format(disk=total.disk_yuan))
    if total.billed is not None:
        said.append(words.billed.format(billed=total.billed))
    if total.minutes.paid and total.priced and whole.replies:
        each = words.amount(whole.compute_hours_per_reply or 0.0, whole.yuan_per_reply or 0.0, digits=2)
        said.append(words.replies.format(replies=whole.replies, amount=each))
    return said


def _waste(report: CostReport, words: Words) -> list[str]:
    whole, minutes = report.summary, report.summary.total.minutes
    said = [words.stopped.format(hours=_hours(minutes.stopped))]
    if whole.idle_share is not None:
        amount = [words.amount(whole.idle_compute_hours, whole.idle_yuan)] if whole.total.priced else []
        idle = words.idle.format(share=100 * whole.idle_share, hours=_hours(minutes.idle))
        said = [words.comma.join([idle, *amount])]
    others = (whole.wake_minutes, words.waking), (minutes.unwatched, words.unwatched), (minutes.unknown, words.unknown)
    return [*said, *(text.format(hours=_hours(spent)) for spent, text in others if spent >= LEAST_SAID)]


def _rest(report: CostReport, words: Words) -> list[str]:
    said: list[str] = []
    if report.quota:
        said = _quota(report, report.quota, words)
    elif report.trial_ends_at:
        said = [words.trial_over.format(date=words.day(local_day(report.trial_ends_at, report.zone)))]
    if report.month:
        left = max(report.month.whole - report.month.spent, 0.0)
        said.append(words.month.format(left=left, whole=report.month.whole))
    return said or [words.no_budget]


def _quota(report: CostReport, quota: Standing, words: Words) -> list[str]:
    end, runs_out = words.day(local_day(quota.end, report.zone)), quota.runs_out(report.at)
    if quota.share >= 1:
        renewed = [] if quota.end == report.trial_ends_at else [words.renewed.format(end=end)]
        return [words.spent.format(whole=quota.whole), *renewed]
    said = [words.quota.format(left=quota.whole - quota.spent, whole=quota.whole, end=end)]
    if runs_out:
        said.append(words.runs_out.format(date=words.day(local_day(runs_out, report.zone))))
    elif quota.a_day is not None:
        said.append(words.lasts)
    return said


def _hours(minutes: float) -> str:
    return f"{minutes / 60:.1f}"
