"""What the operators are told, as data; `wording` turns it into words, and the channels carry those."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What a notice is about, beside the policy's `Reminder` and `Trouble`, whose words are used as they are."""

    STOPPED = "stopped"  # the receipt of a stop
    WOKEN = "woken"
    FOREIGN = "foreign"  # somebody else has stopped or started it
    BUDGET = "budget"  # a threshold of a budget is reached
    FORECAST = "forecast"  # it will run out before its period ends
    FIRST_PAID = "first_paid"  # the free quota is spent: from now on it costs yuan
    TRIAL_END = "trial_end"
    SUGGESTION = "suggestion"  # a better idle.after


class Amount(msgspec.Struct, frozen=True):
    """Money, in yuan and in compute-hours; None where that rate is not known."""

    yuan: float | None = None
    compute_hours: float | None = None


class Left(msgspec.Struct, frozen=True):
    """What is left to spend. `until`: when it is spent if the instance runs on without a pause."""

    compute_hours: float | None = None
    yuan: float | None = None
    until: datetime | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that operators should know, or do.

    `kind`: a word of `Kind`, `Reminder` or `Trouble`. `key`: the same whoever notices it, and however often.
    `deadline`: when what is announced happens, if nobody does anything. `stoppable`: whether "stop now" would work.
    `saved`: by the stop (or what a dry run would have saved). `share`: of a budget, 0.5 for half of it; `budget` names
    it ("compute-hours", "yuan"), `period` says which ("2026-11").
    """

    kind: str
    key: str
    instance: str
    epoch: int
    at: datetime
    reason: str
    idle_since: datetime | None = None
    idle: timedelta | None = None
    up: timedelta | None = None
    cost: Amount | None = None
    hourly: Amount = Amount()
    left: Left | None = None
    deadline: datetime | None = None
    stoppable: bool = False
    saved: Amount | None = None
    saved_time: timedelta | None = None
    budget: str = ""
    period: str = ""
    share: float | None = None
