"""How the instance is, for operators who ask: a few lines. Pure."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from bot.money.operator_ruling import Asked, moment
from bot.money.situation import Rules, State
from bot.money.wording import duration

STALE = timedelta(minutes=5)  # what was seen longer ago is told with its time


def status(asked: Asked, seen_at: datetime, rules: Rules, zone: ZoneInfo, today: str) -> str:
    """State, reason, since when it is idle, what comes next, and what today has cost. `seen_at`: when it was so."""
    memory, words, at = asked.memory, asked.words, asked.at
    lines = [words.states[memory.state], words.reason.format(reason=asked.reason.rstrip(".")) if asked.reason else ""]
    if memory.idle_since and memory.state in (State.IDLE, State.WARNED):
        idle = duration(at - memory.idle_since, words.units)
        lines.append(words.idle.format(since=moment(memory.idle_since, at, zone, words), idle=idle))
    lines += [_next(asked, rules, zone), today]
    if at - seen_at > STALE:
        lines.append(words.looked.format(at=moment(seen_at, at, zone, words)))
    return "\n".join(line for line in lines if line)


def _next(asked: Asked, rules: Rules, zone: ZoneInfo) -> str:
    """Empty where nobody can say."""
    memory, words = asked.memory, asked.words
    match memory.state:
        case State.ACTIVE:
            return words.after_use.format(after=duration(rules.after, words.units))
        case State.IDLE:
            return _idle(asked, rules, zone)
        case State.WARNED:
            line, when = words.stopped_at, memory.warn_deadline
        case State.HELD:
            line, when = words.held_until, memory.held_until
        case State.STOPPED:
            return words.message_wakes
        case State.BLOCKED:
            return words.human
        case State.DEGRADED:
            line, when = words.again if memory.next_try_at else words.human, memory.next_try_at or asked.at
        case _:
            return ""
    return line.format(until=moment(when, asked.at, zone, words)) if when else ""


def _idle(asked: Asked, rules: Rules, zone: ZoneInfo) -> str:
    """A learned limit may be shorter, but none is longer than these two."""
    memory, words = asked.memory, asked.words
    latest = (memory.idle_since or asked.at) + rules.after + rules.warn_for
    if not (rules.stops or rules.reports):
        return words.by_itself_not
    if latest <= asked.at or (rules.in_quiet != "act" and rules.quiet.cover(latest)):
        return ""  # something keeps it: the reason says what
    line = words.at_latest if rules.stops else words.dry_run
    return line.format(until=moment(latest, asked.at, zone, words))
