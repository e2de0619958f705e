"""What each conversation cost, of the time in which its answers were written. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from bot.money.accounts import HOUR, Charge
from storage.money import Answer


@dataclass(frozen=True, slots=True)
class Talk:
    """What one conversation took of the used time; answers that were written at once share it."""

    conversation: str
    replies: int
    answering: timedelta
    compute_hours: float
    yuan: float


def talks(charges: Iterable[Charge], answers: Sequence[Answer]) -> tuple[Talk, ...]:
    """What each conversation took, the dearest first."""
    shares = _shares(charges, answers)
    found: dict[str, Talk] = {}
    for answer in answers:
        before = found.get(answer.conversation, Talk(answer.conversation, 0, timedelta(), 0.0, 0.0))
        start, end = shares[answer.started_at], shares[answer.finished_at]
        found[answer.conversation] = Talk(
            before.conversation, before.replies + 1, before.answering + (answer.finished_at - answer.started_at),
            before.compute_hours + end.compute_hours - start.compute_hours, before.yuan + end.yuan - start.yuan,
        )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda one: (-one.yuan, -one.compute_hours, one.conversation)))


@dataclass(frozen=True, slots=True)
class _Taken:
    """Of money in all, or an hour."""

    compute_hours: float = 0.0
    yuan: float = 0.0

    def plus(self, other: "_Taken", times: float) -> "_Taken":
        return _Taken(self.compute_hours + times * other.compute_hours, self.yuan + times * other.yuan)


def _shares(charges: Iterable[Charge], answers: Iterable[Answer]) -> dict[datetime, _Taken]:
    """What somebody would have taken until each moment who always shared equally with all answers of the time."""
    rates: defaultdict[datetime, _Taken] = defaultdict(_Taken)  # by how much they change
    writing: Counter[datetime] = Counter()  # by how many they become more
    for charge in charges:
        if charge.end > charge.start:
            hours = (charge.end - charge.start) / HOUR
            taken = _Taken(charge.compute_hours, charge.yuan)
            rates[charge.start] = rates[charge.start].plus(taken, 1 / hours)
            rates[charge.end] = rates[charge.end].plus(taken, -1 / hours)
    for answer in answers:
        writing[answer.started_at] += 1
        writing[answer.finished_at] -= 1
    moments = sorted(rates.keys() | writing.keys())
    found = dict.fromkeys(moments[:1], _Taken())
    rate, many = _Taken(), 0
    for moment, following in pairwise(moments):
        rate, many = rate.plus(rates[moment], 1), many + writing[moment]
        taken = found[moment]
        found[following] = taken.plus(rate, (following - moment) / HOUR / many) if many else taken
    return found
