"""When an idle machine is told of, and when it is stopped and woken. Pure: memory, evidence, rules in; a decision out.

Whatever can't be told counts as use: nothing is stopped then. Time that was not seen is neither use nor idleness: the
idle time and all deadlines stand still in it. Nothing here can delete anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from bot.money.orders import asked, ordered
from bot.money.situation import (
    UP,
    Action,
    Alert,
    Decision,
    LiftTimer,
    Memory,
    RearmTimer,
    Remind,
    Reminder,
    Rules,
    Situation,
    State,
    Trouble,
)
from bot.money.stopping import (
    alerted,
    drain,
    draining,
    end_spell,
    enter,
    reconciled,
    saving,
    stopped,
    stopping,
    waking,
    warming,
)
from bot.money.verdict import NONE, Verdict, look, on_the_clock, paused


def decide(memory: Memory, situation: Situation, rules: Rules) -> Decision:
    """What the instance's state is now, and what has to be done."""
    before = asked(on_the_clock(memory, situation.now, rules), situation)
    verdict = look(situation, rules)
    before, alerts = _unknown_noted(before, verdict, situation.now, rules)
    decision = (
        reconciled(before, situation, rules)
        or ordered(before, situation, verdict, rules)
        or STEPS[before.state](before, situation, verdict, rules)
    )
    after, timers = _timer(decision.memory, situation.now, rules)
    after = replace(after, last_tick_at=situation.now)
    return replace(decision, memory=after, actions=(*alerts, *decision.actions, *timers))


# The idle decision


@dataclass(frozen=True, slots=True)
class Plan:
    """When an idle spell, if it goes on, is to be told of, and to be ended by a stop."""

    warn_at: datetime
    stop_at: datetime
    warning: timedelta  # at least so long before the stop


def plan(memory: Memory, situation: Situation, rules: Rules) -> Plan:
    """A learned limit says when to stop, and the warning goes out before; else it is `after` and `warn_for`.

    The learned limit lies between `floor` and `after` + `warn_for`; its warning is as large a part of it as `warn_for`
    is of those two, and `least_warning` at least. For `min_uptime` after a wake nothing is stopped.
    """
    since = memory.idle_since or situation.now
    whole = rules.after + rules.warn_for
    limit = whole if situation.limit is None else min(max(situation.limit, rules.floor), whole)
    warning = min(max(limit * (rules.warn_for / whole), rules.least_warning), rules.warn_for, limit)
    settled = memory.woken_at + rules.min_uptime if memory.woken_at else since
    stop_at = max(since + limit, settled)
    return Plan(stop_at - warning, stop_at, warning)


def _active(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    if verdict.busy is not False:
        return Decision(memory, (), verdict.reason)
    last = memory.last_tick_at or situation.now  # in use until then, as far as is known
    since = max(last, verdict.last_used or last)
    idle = replace(enter(memory, State.IDLE, situation.now), unused_since=since, idle_since=since, used_by=verdict.by)
    return _idle(idle, situation, verdict, rules)


def _idle(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    now = situation.now
    if verdict.used_since(memory.unused_since):
        return end_spell(memory, situation, rules, verdict.by, verdict.reason)
    quiet = rules.quiet.cover(now)
    if verdict.busy is None or (quiet and rules.in_quiet == "hold"):
        return _standing_still(memory, now, "quiet hours" if verdict.busy is False else verdict.reason)
    planned = plan(memory, situation, rules)
    if quiet and rules.in_quiet == "later":
        return Decision(memory, (), f"{_told(memory, now, verdict)}; quiet hours: messages wait")
    no_stock = situation.stock is False and rules.ask_without_stock
    if quiet and (not rules.stops or no_stock or now < planned.stop_at):
        return Decision(memory, (), f"{_told(memory, now, verdict)}; quiet hours: no messages")
    if quiet:
        return drain(memory, situation, f"{_told(memory, now, verdict)}; quiet hours: stopped without warning")
    if rules.reports and now >= planned.stop_at and Reminder.DRY_RUN not in memory.sent:
        return _remind(replace(memory, would_stop_at=now), Reminder.DRY_RUN, now, verdict)
    if rules.stops and now >= planned.warn_at:
        return _stock_out(memory, now, verdict) if no_stock else _warn(memory, situation, verdict, planned)
    return _remind_if_due(memory, now, verdict, rules)


def _warned(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    now = situation.now
    if verdict.used_since(memory.unused_since) or not rules.stops:
        return end_spell(memory, situation, rules, verdict.by, verdict.reason)
    quiet = rules.quiet.cover(now)
    if verdict.busy is None or (quiet and rules.in_quiet != "act"):
        return _standing_still(memory, now, "quiet hours" if verdict.busy is False else verdict.reason, rules.last_call)
    if situation.stock is False and rules.ask_without_stock:
        deadline = _standing_still(memory, now, "", rules.last_call).memory.warn_deadline
        return _stock_out(replace(memory, warn_deadline=deadline), now, verdict)
    deadline = memory.warn_deadline or now
    if now >= deadline:
        return drain(memory, situation, _told(memory, now, verdict))
    long_enough = deadline - (memory.since or now) >= 2 * rules.last_call
    if now >= deadline - rules.last_call and long_enough and not quiet and Reminder.LAST_CALL not in memory.sent:
        return _remind(memory, Reminder.LAST_CALL, now, verdict)
    return Decision(memory, (), f"{_told(memory, now, verdict)}; to be stopped at {deadline:%H:%M:%S} UTC")


def _standing_still(memory: Memory, now: datetime, reason: str, least: timedelta = NONE) -> Decision:
    """The time since the last tick does not count. `least`: what is left until the deadline at least."""
    still = paused(memory, now - (memory.last_tick_at or now))
    if still.warn_deadline:
        still = replace(still, warn_deadline=max(still.warn_deadline, now + least))
    return Decision(still, (), f"no idle time counted: {reason}")


def _told(memory: Memory, now: datetime, verdict: Verdict) -> str:
    minutes = (now - (memory.idle_since or now)) / timedelta(minutes=1)
    return f"idle for {minutes:.0f} min; {verdict.reason}"


# Reminders: each once in an idle spell, and of several that are due only the strongest


def _remind(memory: Memory, kind: Reminder, now: datetime, verdict: Verdict) -> Decision:
    """An idle machine's first reminders are covered by any later one."""
    order = (Reminder.IDLE, Reminder.STILL_IDLE, Reminder.LONG_IDLE)
    covered = order[: order.index(kind)] if kind in order else order[:1]
    sent = (*memory.sent, *(one for one in (*covered, kind) if one not in memory.sent))
    told = _told(memory, now, verdict)
    idle = now - (memory.unused_since or now)
    reminder = Remind(kind, memory.epoch, idle, told, deadline=memory.warn_deadline)
    return Decision(replace(memory, sent=sent), (reminder,), told)


def _remind_if_due(memory: Memory, now: datetime, verdict: Verdict, rules: Rules) -> Decision:
    idle = now - (memory.idle_since or now)
    due = (
        (Reminder.LONG_IDLE, rules.long_after), (Reminder.STILL_IDLE, rules.still_after), (Reminder.IDLE, rules.after),
    )  # fmt: skip
    for kind, after in due:
        if idle >= after:
            if kind in memory.sent:
                break
            return _remind(memory, kind, now, verdict)
    return Decision(memory, (), _told(memory, now, verdict))


def _warn(memory: Memory, situation: Situation, verdict: Verdict, planned: Plan) -> Decision:
    now = situation.now
    deadline = max(planned.stop_at, now + planned.warning)
    warned = replace(enter(memory, State.WARNED, now), warn_deadline=deadline)
    decision = _remind(warned, Reminder.WARNED, now, verdict)
    if situation.stock is not False or Reminder.STOCK_OUT in memory.sent:
        return decision
    both = _remind(decision.memory, Reminder.STOCK_OUT, now, verdict)
    return replace(both, actions=decision.actions + both.actions)


def _stock_out(memory: Memory, now: datetime, verdict: Verdict) -> Decision:
    """Nothing is stopped that may not come back, unless somebody asks for it."""
    if Reminder.STOCK_OUT not in memory.sent:
        return _remind(memory, Reminder.STOCK_OUT, now, verdict)
    return Decision(memory, (), f"{_told(memory, now, verdict)}; not stopped: no such GPU is in stock")


# Held, and degraded


def _held(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    if memory.held_until is not None and memory.held_until > situation.now:
        return Decision(memory, (), f"held until {memory.held_until:%d %b %H:%M} UTC; {verdict.reason}")
    free = replace(enter(memory, State.ACTIVE, situation.now), held_until=None)
    return _active(free, situation, verdict, rules)


def _degraded(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    """A call that fails is made again and again; an image that could not be saved waits for a human."""
    if memory.trying:
        again = stopping if memory.trying is State.STOPPING else waking
        return again(memory, situation, verdict, rules)
    if verdict.used_since(memory.unused_since):
        return end_spell(memory, situation, rules, verdict.by, verdict.reason)
    if verdict.busy is None:
        return _standing_still(memory, situation.now, verdict.reason)
    if rules.quiet.cover(situation.now):
        return Decision(memory, (), "the image was not saved: waits for an operator")
    return _remind_if_due(memory, situation.now, verdict, rules)


STEPS: dict[State, Callable[[Memory, Situation, Verdict, Rules], Decision]] = {
    State.ACTIVE: _active, State.IDLE: _idle, State.WARNED: _warned, State.HELD: _held, State.DRAINING: draining,
    State.SAVING: saving, State.STOPPING: stopping, State.STOPPED: stopped, State.BLOCKED: stopped,
    State.WAKING: waking, State.WARMING: warming, State.DEGRADED: _degraded,
}  # fmt: skip


# What goes along in every state


def _unknown_noted(memory: Memory, verdict: Verdict, now: datetime, rules: Rules) -> tuple[Memory, tuple[Alert, ...]]:
    """A sensor that tells nothing for long keeps the machine up, and costs money: somebody must see to it."""
    if not verdict.unknown or memory.state not in (*UP, State.DEGRADED):
        return replace(memory, unknown_since=None), ()
    since = min(memory.unknown_since or now, now)
    memory = replace(memory, unknown_since=since)
    return (
        alerted(memory, Trouble.UNKNOWN, verdict.unknown) if now - since >= rules.unknown_alert_after else (memory, ())
    )


def _timer(memory: Memory, now: datetime, rules: Rules) -> tuple[Memory, tuple[Action, ...]]:
    """Set anew when a third of it has passed, for as long as the service lives and the instance runs."""
    if memory.state not in UP:
        return memory, ()
    if rules.timer and rules.stops:
        if memory.timer_until and memory.timer_until - now > rules.timer * (2 / 3):
            return memory, ()
        until = now + rules.timer
        return replace(memory, timer_until=until), (RearmTimer(until),)
    return replace(memory, timer_until=None), (LiftTimer(),) if memory.timer_until else ()
