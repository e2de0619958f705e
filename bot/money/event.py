"""A notice as an event for programs: its type, and its figures with units in their names."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from bot.money.notice import Amount, Kind, Left, Notice

TYPES: dict[str, str] = {
    Kind.BUDGET: "budget.threshold", Kind.FORECAST: "budget.forecast", Kind.FIRST_PAID: "budget.first_paid",
    Kind.TRIAL_END: "budget.trial_end", Kind.SUGGESTION: "instance.suggestion",
}  # fmt: skip


class Data(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a receiver gets; what is not known is left out. `id`: the same for one notice, whoever sends it."""

    id: str
    instance: str
    epoch: int
    reason: str
    stoppable: bool
    idle_since: datetime | None = None
    idle_seconds: float | None = None
    up_seconds: float | None = None
    cost: Amount | None = None
    cost_per_hour: Amount | None = None
    left: Left | None = None
    deadline: datetime | None = None
    saved: Amount | None = None
    saved_seconds: float | None = None
    budget: str = ""
    period: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """`type` as `instance.idle`; `data` is encoded."""

    type: str
    timestamp: datetime
    data: msgspec.Raw


def event(notice: Notice) -> Told:
    data = Data(
        id=notice.key, instance=notice.instance, epoch=notice.epoch, reason=notice.reason,
        idle_since=notice.idle_since, idle_seconds=_seconds(notice.idle), up_seconds=_seconds(notice.up),
        cost=notice.cost, cost_per_hour=None if notice.hourly == Amount() else notice.hourly, left=notice.left,
        deadline=notice.deadline, stoppable=notice.stoppable, saved=notice.saved,
        saved_seconds=_seconds(notice.saved_time), budget=notice.budget, period=notice.period, share=notice.share,
    )  # fmt: skip
    kind = TYPES.get(notice.kind, f"instance.{notice.kind}")
    return Told(kind, notice.at, msgspec.Raw(msgspec.json.encode(data)))


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
