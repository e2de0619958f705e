"""The rules that others follow, minute by minute on the same trace. None of them ever fails or is late."""

from collections.abc import Callable

from bench.idle.outcome import Outcome
from bench.idle.trace import CORES, Minute, Trace

THRESHOLD = 10.0  # per cent of the processors, and of the GPU

Busy = Callable[[Minute], bool]


def culled(name: str, trace: Trace, busy: Busy, limit: int) -> Outcome:
    """Stops after `limit` minutes without what this rule takes for use."""
    outcome = Outcome(name)
    on, quiet, found, idle = True, 0, 0, 0
    for number, minute in enumerate(trace.minutes):
        on, quiet = _woken(outcome, minute, on=on, quiet=quiet)
        seen = busy(minute)
        found += not seen and not minute.used
        idle += not minute.used
        if not on:
            continue
        quiet = 0 if seen else quiet + 1
        outcome.idle += not minute.used
        if quiet >= limit:
            on = _stopped(outcome, trace, number)
    outcome.found = found / idle
    return outcome


def _woken(outcome: Outcome, minute: Minute, *, on: bool, quiet: int) -> tuple[bool, int]:
    if on or not minute.used:
        return on, quiet
    outcome.wakes += 1
    return True, 0


def _stopped(outcome: Outcome, trace: Trace, number: int) -> bool:
    outcome.stops += 1
    if trace.minutes[number].used:
        outcome.wrong.append(f"{trace.at(number):%d %b %H:%M}")
    return False


def never(trace: Trace) -> Outcome:
    return culled("never stopped", trace, lambda _: True, 1)


def dsw_culler(trace: Trace, limit: int = 30) -> Outcome:
    def busy(minute: Minute) -> bool:
        return minute.gpu >= THRESHOLD or minute.cpu / CORES * 100 >= THRESHOLD

    return culled(f"DSW's culler, {limit} min", trace, busy, limit)


def jupyterhub_culler(trace: Trace, limit: int = 30) -> Outcome:
    """Sees what goes through its proxy, and the kernels; nothing that runs beside them."""
    return culled(f"jupyterhub-idle-culler, {limit} min", trace, lambda one: one.kernel or one.requests, limit)


def timer(trace: Trace, hour: int = 23, after: int = 4 * 60) -> Outcome:
    """Stops every day at an hour, and so many minutes after each start, whatever happens."""
    outcome = Outcome(f"timer: {hour}:00, and {after // 60} h after a start")
    on, up = True, 0
    for number, minute in enumerate(trace.minutes):
        on, up = _woken(outcome, minute, on=on, quiet=up)
        if not on:
            continue
        up += 1
        outcome.idle += not minute.used
        local = trace.at(number + 1).astimezone(trace.zone)
        if up >= after or (local.hour, local.minute) == (hour, 0):
            on = _stopped(outcome, trace, number)
    return outcome


def foresight(trace: Trace, wake: float) -> Outcome:
    """Knows how long each gap will be, and stops at its beginning where that is cheaper."""
    outcome = Outcome("perfect foresight", found=1.0)
    for first, end in trace.gaps():
        last = end == len(trace.minutes)
        if last or end - first > wake:
            outcome.stops += 1
            outcome.wakes += not last
        else:
            outcome.idle += end - first
    return outcome
