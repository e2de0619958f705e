"""From what was decided to what operators are told. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from msgspec.structs import replace

from bot.money.accounts import Terms
from bot.money.budget import left
from bot.money.instance import View
from bot.money.market import Market
from bot.money.notice import Amount, Kind, Left, Notice
from bot.money.situation import UP, Alert, ConfirmStop, Decision, Memory, Remind, Reminder, Rules, State, Stop

HOUR = timedelta(hours=1)
CAN_WAIT = frozenset({Reminder.IDLE, Reminder.STILL_IDLE, Reminder.LONG_IDLE, Reminder.DRY_RUN, Reminder.DRY_RUN_SAVED,
                      Kind.SUGGESTION})  # fmt: skip
DOWN = (State.STOPPED, State.BLOCKED)
COMING_UP = (State.WAKING, State.WARMING)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a decision was made in. `local`: this service runs on the instance, and is stopped with it.

    `remaining`: how much longer it would be idle, as past gaps tell.
    """

    at: datetime
    instance: str
    rules: Rules
    terms: Terms
    market: Market
    view: View
    local: bool
    remaining: timedelta | None = None


def worth(span: timedelta | None, hourly: Amount) -> Amount | None:
    """What so much time costs; None where no rate is known."""
    if span is None or hourly == Amount():
        return None
    hours = span / HOUR
    return Amount(*(None if rate is None else hours * rate for rate in (hourly.yuan, hourly.compute_hours)))


def notices(before: Memory, decision: Decision, moment: Moment) -> Iterator[Notice]:
    """All that follow from one decision, each with a key that is the same whoever makes it."""
    after = decision.memory
    for action in decision.actions:
        match action:
            case Remind():
                yield _reminded(action, before if action.kind is Reminder.DRY_RUN_SAVED else after, moment)
            case Alert():
                yield named(_notice(after, moment, action.reason), action.kind, action.key)
            case Stop() if moment.local and before.trying is None:
                yield _receipt(after, moment)  # there will be nobody to send it afterwards
            case ConfirmStop() if not moment.local:
                yield _receipt(after, moment)
            case _:
                pass
    if before.state in UP and before.state is not State.SAVING and after.state is State.STOPPING and not after.trying:
        yield named(_notice(after, moment, decision.reason), Kind.FOREIGN, f"{Kind.FOREIGN}:{after.epoch}")
    was_down = before.state in DOWN or (before.state is State.STOPPING and moment.local)
    if was_down and after.state in COMING_UP:
        yield _woken(before, after, moment, decision.reason)


def named(notice: Notice, kind: str, key: str) -> Notice:
    return replace(notice, kind=str(kind), key=f"{notice.instance}:{key}")


def _notice(memory: Memory, moment: Moment, reason: str) -> Notice:
    since = memory.unused_since
    idle = moment.at - since if since else None
    return Notice(
        kind="", key="", instance=moment.instance, epoch=memory.epoch, at=moment.at, reason=reason,
        idle_since=since, idle=idle, up=moment.at - moment.view.up_since if moment.view.up_since else None,
        cost=worth(idle, moment.market.hourly), hourly=moment.market.hourly, left=_left(moment),
        deadline=memory.warn_deadline, stoppable=moment.rules.may_stop and memory.state in UP,
    )  # fmt: skip


def _left(moment: Moment) -> Left | None:
    account = moment.market.account
    return left(account, moment.terms, moment.at, moment.market.hourly) if account else None


def _reminded(action: Remind, memory: Memory, moment: Moment) -> Notice:
    plain = named(_notice(memory, moment, action.reason), action.kind, f"{action.kind}:{action.epoch}")
    since = moment.at - action.idle
    return replace(
        plain, epoch=action.epoch, idle=action.idle, idle_since=since, cost=worth(action.idle, moment.market.hourly),
        deadline=action.deadline, saved_time=action.saved, saved=worth(action.saved, moment.market.hourly),
    )  # fmt: skip


def _receipt(memory: Memory, moment: Moment) -> Notice:
    plain = named(_notice(memory, moment, ""), Kind.STOPPED, f"{Kind.STOPPED}:{memory.epoch}")
    saved = moment.remaining - moment.rules.wake_takes if moment.remaining else None
    saved = saved if saved and saved > timedelta() else None
    return replace(plain, saved_time=saved, saved=worth(saved, moment.market.hourly), stoppable=False)


def _woken(before: Memory, after: Memory, moment: Moment, reason: str) -> Notice:
    plain = named(_notice(after, moment, reason), Kind.WOKEN, f"{Kind.WOKEN}:{before.epoch}")
    down = moment.at - before.since if before.since else None
    return replace(plain, saved_time=down, saved=worth(down, moment.market.hourly), stoppable=False)
