"""The policy itself on a trace: `decide`, every 20 seconds while the machine runs, with what sensors could see.

Its memory is written down and read again whenever its service restarts. A tick on the full minute belongs to the
minute before: that is what sensors have looked at by then, and a use that begins in that instant meets a stop.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from bench.idle.outcome import Outcome
from bench.idle.sensing import Eyes, inside, login_counts
from bench.idle.trace import Trace
from bot.money.learning import Gap, best_limit
from bot.money.policy import decide
from bot.money.situation import Alert, Decision, Memory, Remind, Rules, Situation, State, Stop, Wake
from bot.money.verdict import look

TICKS = 3  # a minute
REFUSED = 0.02  # of all calls, at any time
STOPPING_TAKES = 2  # minutes until DSW says Stopped


@dataclass(slots=True)
class Run:
    """One simulated month under the policy."""

    trace: Trace
    rules: Rules
    wake: timedelta
    learns: bool
    outcome: Outcome
    chance: random.Random
    memory: Memory = field(default_factory=Memory)
    gaps: list[Gap] = field(default_factory=list)
    told: Counter[tuple[int, str]] = field(default_factory=Counter)
    limits: list[float] = field(default_factory=list)  # minutes, at which it stopped
    on: bool = True
    stopped_at: int = 0
    failed: str = ""
    limit_of: tuple[datetime, int] | None = None
    limit: timedelta | None = None

    def play(self) -> Outcome:
        eyes = Eyes(self.trace)
        was_down = False
        for number, minute in enumerate(self.trace.minutes):
            if not self.on and minute.used and not minute.requests:
                self._start(eyes, number)  # somebody who wants to log in, or to begin a training
            down = inside(self.trace.down, number) is not None
            if was_down and not down:
                self.memory = msgspec.json.decode(msgspec.json.encode(self.memory), type=Memory)
                eyes = Eyes(self.trace, eyes.booted)
            was_down = down
            for tick in range(1, TICKS + 1):
                self.outcome.idle += (self.on and not minute.used) / TICKS
                if not down and (self.on or tick == TICKS):
                    self._tick(eyes, number, tick / TICKS)
            self._count(eyes, number, down=down)
        self.outcome.reminders = self.told.total()
        self.outcome.repeated = sum(count - 1 for count in self.told.values())
        return self.outcome

    def _start(self, eyes: Eyes, number: int) -> None:
        self.on = True
        self.outcome.wakes += 1
        eyes.booted = number
        eyes.last_used.clear()

    def _tick(self, eyes: Eyes, number: int, part: float) -> None:
        wrong = inside(self.trace.clock, number)
        shift = timedelta(minutes=int(wrong.what)) if wrong else timedelta()
        now = self.trace.at(number + part) + shift
        minute = self.trace.minutes[number]
        signals = eyes.look(number, now, shift) if self.on else ()
        status = "Running" if self.on else "Stopping" if number - self.stopped_at < STOPPING_TAKES else "Stopped"
        situation = Situation(
            now, signals, status=status, queued=0 if self.on else int(minute.requests), drained=True,
            failed=self.failed, limit=self._limit(now), stock=True,
        )  # fmt: skip
        self.failed = ""
        decision = decide(self.memory, situation, self.rules)
        self.memory = decision.memory
        if decision.ended:
            self.gaps.append(decision.ended)
        self._act(decision, eyes, number)

    def _limit(self, now: datetime) -> timedelta | None:
        """The learned limit of this gap, looked at anew every minute of it."""
        start = self.memory.unused_since
        if not self.learns or start is None or self.memory.state is not State.IDLE:
            return None
        asked = start, int((now - start) / timedelta(minutes=1))
        if asked != self.limit_of:
            estimate = best_limit(
                self.gaps, Gap(start, now - start, after=self.memory.used_by), zone=self.trace.zone, wake=self.wake,
                floor=self.rules.floor, ceiling=self.rules.after + self.rules.warn_for,
            )  # fmt: skip
            self.limit_of, self.limit = asked, estimate.limit
        return self.limit

    def _act(self, decision: Decision, eyes: Eyes, number: int) -> None:
        for action in decision.actions:
            match action:
                case Remind():
                    self.told[action.epoch, action.kind] += 1
                case Alert():
                    self.outcome.alerts += 1
                case Stop() | Wake() if self._refused(number):
                    self.failed = "ServiceUnavailable"
                case Stop():
                    self._stop(decision, number)
                case Wake():
                    self._start(eyes, number)
                case _:
                    pass

    def _refused(self, number: int) -> bool:
        return inside(self.trace.refusing, number) is not None or self.chance.random() < REFUSED

    def _stop(self, decision: Decision, number: int) -> None:
        self.on, self.stopped_at = False, number
        self.outcome.stops += 1
        since = decision.memory.idle_since or decision.memory.last_tick_at
        if since and decision.memory.last_tick_at:
            self.limits.append((decision.memory.last_tick_at - since) / timedelta(minutes=1))
        if self.trace.minutes[number].used:
            self.outcome.wrong.append(f"{self.trace.at(number):%d %b %H:%M} {decision.reason}")

    def _count(self, eyes: Eyes, number: int, *, down: bool) -> None:
        """Only minutes in which it runs can be judged."""
        minute = self.trace.minutes[number]
        if minute.used:
            return
        self.outcome.down += down
        self.outcome.absent += self.on and login_counts(minute, number, eyes.booted)


def policy(name: str, trace: Trace, rules: Rules, *, wake: timedelta, learns: bool, seed: int) -> tuple[Outcome, Run]:
    run = Run(trace, rules, wake, learns, Outcome(name), random.Random(seed))
    run.play()
    run.outcome.found = recognised(trace, rules)
    return run.outcome, run


def recognised(trace: Trace, rules: Rules) -> float:
    """The share of idle minutes that all signals together show as idle, on a machine that is never stopped.

    Unknown is not idle. Left out are minutes in which the service does not run, and those in which somebody's login,
    quiet for less than an hour, counts as use by definition.
    """
    eyes = Eyes(trace)
    idle = found = 0
    for number, minute in enumerate(trace.minutes):
        now = trace.at(number + 1)
        if inside(trace.down, number):
            continue
        verdict = look(Situation(now, eyes.look(number, now, timedelta())), rules)
        if not minute.used and not login_counts(minute, number, 0):
            idle += 1
            found += verdict.busy is False
    return found / idle
