"""What operators ask: a hold, a stop now."""

from dataclasses import replace

from bot.money.situation import UP, Decision, Memory, Rules, Situation, State, Trouble
from bot.money.stopping import alerted, drain, end_spell, enter
from bot.money.verdict import Verdict


def asked(memory: Memory, situation: Situation) -> Memory:
    """The newest word counts: who asks for a stop takes the hold away."""
    until = situation.hold or (situation.now + situation.snooze if situation.snooze is not None else None)
    if situation.stop:
        return replace(memory, asked=situation.stop, held_until=None)
    if until:
        return replace(memory, asked="", held_until=until)
    return replace(memory, held_until=None) if situation.release else memory


def ordered(memory: Memory, situation: Situation, verdict: Verdict, rules: Rules) -> Decision | None:
    """A stop that is asked for, or a hold, comes before what would follow by itself."""
    now = situation.now
    waking_up = State.WAKING in (memory.state, memory.trying) or memory.state is State.WARMING
    if situation.stop and memory.state not in (State.STOPPING, State.STOPPED, State.BLOCKED):
        if waking_up or not rules.may_stop:
            why = "it is being woken" if waking_up else "dsw.allow_stop is off, or dsw.dry_run on"
            refused, alerts = alerted(
                replace(memory, asked=""), Trouble.STOP_REFUSED, f"a stop was asked for, but {why}"
            )
            return Decision(refused, alerts, f"not stopped: {why}")
        begun = replace(memory, unused_since=memory.unused_since or now, idle_since=memory.idle_since or now)
        return drain(begun, situation, "an operator stops it")
    held = memory.held_until is not None and memory.held_until > now
    if held and memory.state in (*UP, State.DEGRADED) and not memory.trying and memory.state is not State.HELD:
        ended = end_spell(memory, situation, rules, "holds", "held by an operator")
        return replace(ended, memory=enter(ended.memory, State.HELD, now))
    return None
