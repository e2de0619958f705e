"""What all signals together say, and how long they have said so. What was not seen is neither use nor idleness."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from bot.money.evidence import Signal
from bot.money.situation import UP, Memory, Rules, Situation

AHEAD = timedelta(seconds=5)  # that a signal's time may be, since clocks are read one after the other
NONE = timedelta()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`by`: the signal that decided. `unknown`: why some signal can't tell, if one can't."""

    busy: bool | None
    by: str
    reason: str
    last_used: datetime | None
    unknown: str

    def used_since(self, then: datetime | None) -> bool:
        """Also where that use is over by now."""
        return bool(self.busy) or (then is not None and self.last_used is not None and self.last_used > then)


def look(situation: Situation, rules: Rules) -> Verdict:
    """Busy wins over unknown, and that over idle."""
    now = situation.now
    used = [min(signal.last_used, now) for signal in situation.signals if signal.last_used]
    last_used = max(used, default=None)
    untold = [(one.name, why) for one in situation.signals if (why := _untold(one, now, rules))]
    unknown = f"{untold[0][0]} can't tell: {untold[0][1]}" if untold else ""
    if situation.queued:
        return Verdict(True, "queue", f"in use: {situation.queued} messages wait (queue)", last_used, unknown)
    for signal in situation.signals:
        if signal.busy and not _untold(signal, now, rules):
            return Verdict(True, signal.name, f"in use: {signal.reason} ({signal.name})", last_used, unknown)
    if untold:
        return Verdict(None, untold[0][0], unknown, last_used, unknown)
    if not situation.signals:
        return Verdict(None, "nothing", "nothing is watched", last_used, "nothing is watched")
    newest = max(situation.signals, key=lambda one: min(one.last_used, now).timestamp() if one.last_used else 0.0)
    return Verdict(False, newest.name, f"not in use: {newest.reason} ({newest.name})", last_used, "")


def _untold(signal: Signal, now: datetime, rules: Rules) -> str:
    """Why a signal says nothing of now; empty if it does."""
    if signal.busy is None:
        return signal.reason
    if now - signal.at > rules.stale_after:
        return f"it last looked {(now - signal.at).total_seconds():.0f} s ago"
    return "its time lies ahead" if signal.at - now > AHEAD else ""


def paused(memory: Memory, span: timedelta) -> Memory:
    """So much time passed that does not count: neither idle time nor a deadline has come nearer."""
    return replace(
        memory, idle_since=_moved(memory.idle_since, span), warn_deadline=_moved(memory.warn_deadline, span),
        would_stop_at=_moved(memory.would_stop_at, span),
    )  # fmt: skip


def _moved(time: datetime | None, span: timedelta) -> datetime | None:
    return None if time is None else time + span


def on_the_clock(memory: Memory, now: datetime, rules: Rules) -> Memory:
    """Where the clock was set, or nobody looked for a while, as if no time had passed since the last tick.

    Only what humans were promised by the clock stays: until when it is held.
    """
    last = memory.last_tick_at or now
    gone = now - last
    if NONE <= gone <= rules.gap or (gone > rules.gap and rules.gaps_are_idle):
        return replace(memory, last_tick_at=last, since=memory.since or now)
    back = min(gone, NONE)
    in_state = gone if memory.state in UP else back  # what DSW does meanwhile takes no break
    return replace(
        paused(memory, gone), last_tick_at=now, timer_until=None, since=(memory.since or last) + in_state,
        next_try_at=_moved(memory.next_try_at, gone), woken_at=_moved(memory.woken_at, gone),
        unused_since=_moved(memory.unused_since, back), unknown_since=_moved(memory.unknown_since, back),
    )  # fmt: skip
