"""From the decision to stop to the instance at work again: each step waits for what DSW says of the last one."""

from dataclasses import replace
from datetime import datetime

from bot.money.learning import Gap
from bot.money.situation import (
    UP,
    Action,
    Alert,
    ConfirmStop,
    Decision,
    Drain,
    LiftTimer,
    Memory,
    Remind,
    Reminder,
    Resume,
    Rules,
    Save,
    Situation,
    Snapshot,
    State,
    Stop,
    Trouble,
    Wake,
)
from bot.money.verdict import NONE, Verdict

STARTING = frozenset(
    {"Creating", "ResourceAllocating", "Queuing", "Starting", "EnvPreparing", "Recovering", "Updating"}
)
ARREARS = frozenset({"ArrearStopping", "Arrearge"})
GOING = frozenset({"Stopping", "ArrearStopping", "Deleting"})
DOWN = frozenset({"Stopped", "Failed", "Arrearge"})


def enter(memory: Memory, state: State, now: datetime) -> Memory:
    """Begins a state; a call that was being tried is none of it."""
    return replace(memory, state=state, since=now, failures=0, next_try_at=None, trying=None)


def end_spell(memory: Memory, situation: Situation, rules: Rules, by: str, reason: str) -> Decision:
    """The idle spell is over: whatever was planned for it is dropped, and the next one has a number of its own."""
    now = situation.now
    if memory.unused_since is None:
        return Decision(replace(enter(memory, State.ACTIVE, memory.since or now), saved=False, asked=""), (), reason)
    closed = memory.state in (State.DRAINING, State.SAVING) or memory.trying is State.STOPPING
    actions: list[Action] = [Resume(memory.epoch)] if closed else []
    if memory.would_stop_at:
        saved = max(now - memory.would_stop_at - rules.wake_takes, NONE)
        idle = now - memory.unused_since
        actions.append(Remind(Reminder.DRY_RUN_SAVED, memory.epoch, idle, reason, saved=saved))
    gap = Gap(memory.unused_since, max(now - memory.unused_since, NONE), by, memory.used_by)
    fresh = replace(
        enter(memory, State.ACTIVE, now), epoch=memory.epoch + 1, unused_since=None, idle_since=None,
        warn_deadline=None, would_stop_at=None, saved=False, asked="", sent=(), raised=(),
    )  # fmt: skip
    return Decision(fresh, tuple(actions), reason, gap)


def alerted(memory: Memory, kind: Trouble, reason: str) -> tuple[Memory, tuple[Alert, ...]]:
    """Raises an alert, once in an epoch."""
    if kind in memory.raised:
        return memory, ()
    return replace(memory, raised=(*memory.raised, kind)), (Alert(kind, f"{kind}:{memory.epoch}", reason),)


def reconciled(memory: Memory, situation: Situation, rules: Rules) -> Decision | None:
    """Where DSW says that somebody else has stopped or started it."""
    now, status = situation.now, situation.status
    restarted = situation.up_since and memory.since and situation.up_since > memory.since
    down = memory.state in (State.STOPPED, State.BLOCKED)
    if status in ARREARS and memory.state is not State.BLOCKED:
        memory, alerts = alerted(memory, Trouble.WAKE_BLOCKED, f"DSW says {status}")
        return Decision(enter(memory, State.BLOCKED, now), alerts, f"DSW says {status}")
    if memory.state in UP and status in GOING | DOWN:
        memory = replace(memory, unused_since=memory.unused_since or now)
        return Decision(enter(memory, State.STOPPING, now), (), f"somebody else stops it: DSW says {status}")
    if (down and status in STARTING) or (memory.state in UP and status in STARTING):
        return _begun(memory, situation, rules, State.WAKING, f"somebody else starts it: DSW says {status}")
    asleep = down or State.STOPPING in (memory.state, memory.trying)
    if (down and status == "Running") or (asleep and restarted and status not in GOING | DOWN):
        return _begun(memory, situation, rules, State.WARMING, "it was started")
    return None


def _begun(memory: Memory, situation: Situation, rules: Rules, state: State, reason: str) -> Decision:
    ended = end_spell(memory, situation, rules, "start", reason)
    actions = tuple(action for action in ended.actions if not isinstance(action, Resume))
    return replace(ended, memory=enter(ended.memory, state, situation.now), actions=actions)


def drain(memory: Memory, situation: Situation, reason: str) -> Decision:
    return Decision(enter(memory, State.DRAINING, situation.now), (Drain(memory.epoch),), reason)


def kept_from(memory: Memory, verdict: Verdict) -> bool:
    """Whether the stop under way must not go on: something is in use, or may be."""
    used = verdict.used_since(memory.unused_since) and not memory.asked
    return memory.asked != "force" and (verdict.busy is not False or used)


def draining(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    late = situation.now - (memory.since or situation.now) >= rules.drain_limit
    if kept_from(memory, verdict):
        if memory.asked == "stop" and verdict.busy is not False and not late:
            return Decision(memory, (), f"draining: {verdict.reason}")
        return _given_up(memory, situation, verdict, rules)
    if not situation.drained and not late:
        return Decision(memory, (), "draining")
    if rules.save_image and not memory.saved and memory.asked != "force":
        return Decision(enter(memory, State.SAVING, situation.now), (Save(memory.epoch),), "saving the image")
    return _stop(memory, situation, verdict.reason)


def _given_up(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    alerts: tuple[Action, ...] = ()
    if memory.asked == "stop":
        memory, alerts = alerted(memory, Trouble.STOP_REFUSED, verdict.reason)
    ended = end_spell(memory, situation, rules, verdict.by, verdict.reason)
    return replace(ended, actions=ended.actions + alerts)


def saving(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    if kept_from(memory, verdict):
        return _given_up(memory, situation, verdict, rules)
    late = situation.now - (memory.since or situation.now) >= rules.save_limit
    if situation.snapshot is Snapshot.FAILED or situation.status == "SaveFailed" or situation.failed or late:
        reason = f"the image was not saved: {situation.failed or ('it takes too long' if late else 'DSW failed')}"
        memory, alerts = alerted(memory, Trouble.SAVE_FAILED, reason)
        failed = replace(enter(memory, State.DEGRADED, situation.now), asked="")
        return Decision(failed, (Resume(memory.epoch), *alerts), reason)
    if situation.snapshot is Snapshot.SAVED:
        return _stop(replace(memory, saved=True), situation, verdict.reason)
    return Decision(memory, (), "saving the image")


def _stop(memory: Memory, situation: Situation, reason: str) -> Decision:
    stopping = replace(enter(memory, State.STOPPING, situation.now), trying=State.STOPPING)
    return Decision(stopping, (Stop(memory.epoch),), f"stopping: {reason}")


def stopping(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision:
    """Until DSW says that it is stopped; a call that failed is made again, unless something is used meanwhile."""
    now, status = situation.now, situation.status
    if status in DOWN:
        return Decision(
            replace(enter(memory, State.STOPPED, now), asked=""), (ConfirmStop(memory.epoch),), f"DSW says {status}"
        )
    if status in GOING:
        return Decision(memory, (), f"DSW says {status}")
    if memory.trying is None and status == "Running":
        return _begun(memory, situation, rules, State.WARMING, "it runs after all: DSW says Running")
    if memory.next_try_at is None:
        if situation.failed:
            return _failed(memory, situation, Trouble.STOP_FAILED, f"stopping failed: {situation.failed}", rules)
        if memory.trying and now - (memory.since or now) > rules.stop_limit:
            reason = f"stopping has no effect: DSW says {status or 'nothing'}"
            return _failed(memory, situation, Trouble.STOP_FAILED, reason, rules)
        return Decision(memory, (), "DSW was told to stop it")
    held = memory.held_until is not None and memory.held_until > now and not memory.asked
    if held or (verdict.used_since(memory.unused_since) and kept_from(memory, verdict)):
        return end_spell(memory, situation, rules, verdict.by, "held" if held else verdict.reason)
    if kept_from(memory, verdict) or now < memory.next_try_at:
        return Decision(memory, (), f"stopping is tried again at {memory.next_try_at:%H:%M:%S} UTC; {verdict.reason}")
    return Decision(replace(memory, since=now, next_try_at=None), (Stop(memory.epoch),), "stopping is tried again")


def _failed(memory: Memory, situation: Situation, kind: Trouble, reason: str, rules: Rules) -> Decision:
    failures = memory.failures + 1
    wait = min(rules.retry_first * 2 ** min(failures - 1, 20), rules.retry_most)
    state = State.DEGRADED if failures >= rules.degraded_after else memory.state
    later = replace(memory, state=state, failures=failures, next_try_at=situation.now + wait)
    if state is not State.DEGRADED:
        return Decision(later, (), reason)
    later, alerts = alerted(later, kind, reason)
    return Decision(later, alerts, reason)


def stopped(memory: Memory, situation: Situation, _verdict: Verdict, rules: Rules) -> Decision:
    lift: tuple[Action, ...] = (LiftTimer(),) if memory.timer_until else ()
    memory = replace(memory, timer_until=None)
    if situation.status in ARREARS:
        return Decision(replace(memory, state=State.BLOCKED), lift, f"DSW says {situation.status}")
    if not situation.queued and not situation.wake:
        return Decision(replace(memory, state=State.STOPPED), lift, "stopped")
    if situation.blocked:
        blocked = memory if memory.state is State.BLOCKED else enter(memory, State.BLOCKED, situation.now)
        blocked, alerts = alerted(blocked, Trouble.WAKE_BLOCKED, situation.blocked)
        return Decision(blocked, (*lift, *alerts), f"not woken: {situation.blocked}")
    reason = f"{situation.queued} messages wait" if situation.queued else "an operator wakes it"
    begun = _begun(memory, situation, rules, State.WAKING, reason)
    waking = replace(begun.memory, trying=State.WAKING)
    ended = replace(begun.ended, ended_by="requests") if begun.ended else None
    return replace(begun, memory=waking, actions=(*lift, *begun.actions, Wake(waking.epoch)), ended=ended)


def waking(memory: Memory, situation: Situation, _verdict: Verdict, rules: Rules) -> Decision:
    """Until DSW says that it runs. What somebody else has started is not called for again."""
    now, status = situation.now, situation.status
    if status == "Running":
        return Decision(enter(memory, State.WARMING, now), (), "DSW says Running")
    if memory.trying is None:
        return Decision(enter(memory, State.STOPPED, now) if status in DOWN else memory, (), f"DSW says {status}")
    if memory.next_try_at is None:
        late = now - (memory.since or now) > rules.wake_limit
        if situation.failed or late:
            reason = f"waking failed: {situation.failed or f'DSW still says {status}'}"
            return _failed(memory, situation, Trouble.WAKE_FAILED, reason, rules)
        return Decision(memory, (), f"DSW was told to start it, and says {status}")
    if situation.blocked:
        return Decision(enter(memory, State.BLOCKED, now), (), f"not woken: {situation.blocked}")
    if now < memory.next_try_at or status in STARTING:
        return Decision(memory, (), f"waking is tried again at {memory.next_try_at:%H:%M:%S} UTC")
    return Decision(replace(memory, since=now, next_try_at=None), (Wake(memory.epoch),), "waking is tried again")


def warming(memory: Memory, situation: Situation, _verdict: Verdict, rules: Rules) -> Decision:
    now = situation.now
    late = now - (memory.since or now) > rules.warm_limit
    if not situation.ready and not late:
        return Decision(memory, (), "the model is being loaded")
    memory, alerts = alerted(memory, Trouble.NOT_READY, "the model is not loaded") if late else (memory, ())
    return Decision(replace(enter(memory, State.ACTIVE, now), woken_at=now), alerts, "it was woken")
