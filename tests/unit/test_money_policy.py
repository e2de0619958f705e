"""When the machine is told of, stopped and woken: the decision, tick by tick."""

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.money.evidence import Signal
from bot.money.policy import decide, plan
from bot.money.quiet import QuietHours, QuietHoursInvalid
from bot.money.situation import (
    Action,
    Alert,
    ConfirmStop,
    Decision,
    Drain,
    LiftTimer,
    Memory,
    RearmTimer,
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

START = datetime(2026, 3, 9, 8, tzinfo=UTC)
TICK = timedelta(seconds=20)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
STOPS = Rules(action="stop", allow_stop=True, dry_run=False)


def signal(now: datetime, busy: bool | None, last_used: datetime | None = None, name: str = "gpu") -> Signal:
    return Signal(name, busy, {True: "it works", False: "it rests", None: "no answer"}[busy], now, last_used)


@dataclass
class Machine:
    """Ticks the policy and plays DSW, which does at once what it is told."""

    rules: Rules = STOPS
    now: datetime = START
    memory: Memory = field(default_factory=Memory)
    busy: bool | None = False
    last_used: datetime | None = None
    status: str | None = "Running"
    refuses: bool = False
    failed: str = ""
    done: list[tuple[datetime, Action]] = field(default_factory=list)
    last: Decision = field(default_factory=lambda: Decision(Memory()))
    ended: list[Any] = field(default_factory=list)

    def tick(self, step: timedelta = TICK, **more: Any) -> Decision:
        self.now += step
        if self.busy:
            self.last_used = self.now
        given = {"drained": True, "status": self.status, "failed": self.failed, **more}
        seen = () if self.status == "Stopped" else (signal(self.now, self.busy, self.last_used),)
        self.last = decide(self.memory, Situation(self.now, given.pop("signals", seen), **given), self.rules)
        self.memory, self.failed = self.last.memory, ""
        self.done += [(self.now, action) for action in self.last.actions]
        self.ended += [self.last.ended] if self.last.ended else []
        for action in self.last.actions:
            if isinstance(action, Stop | Wake) and self.refuses:
                self.failed = "Forbidden"
            elif isinstance(action, Stop | Wake):
                self.status = "Stopped" if isinstance(action, Stop) else "Running"
        return self.last

    def go_on(self, span: timedelta, **more: Any) -> "Machine":
        until = self.now + span
        while self.now < until:
            self.tick(**more)
        return self

    def use(self, span: timedelta = MINUTE) -> "Machine":
        self.busy = True
        self.go_on(span)
        self.busy = False
        return self

    def of(self, kind: type) -> list[Any]:
        return [action for _, action in self.done if isinstance(action, kind)]

    def reminded(self) -> list[Reminder]:
        return [action.kind for action in self.of(Remind)]

    def when(self, kind: type) -> timedelta:
        """How long after the last use it was first done."""
        return next(at for at, action in self.done if isinstance(action, kind)) - self.last_used


def test_it_is_warned_then_called_a_last_time_then_stopped():
    machine = Machine().use().go_on(timedelta(minutes=30))
    assert machine.reminded() == [Reminder.WARNED, Reminder.LAST_CALL]
    assert machine.when(Remind) == STOPS.after
    assert machine.of(Remind)[0].deadline == machine.last_used + timedelta(minutes=25)
    assert machine.when(Stop) == timedelta(minutes=25) + TICK
    assert [type(action) for action in machine.of(Drain) + machine.of(Stop) + machine.of(ConfirmStop)] == [
        Drain, Stop, ConfirmStop,
    ]  # fmt: skip
    assert machine.memory.state is State.STOPPED


def test_the_reason_names_the_signal_that_decided():
    machine = Machine(busy=True)
    assert machine.tick().reason == "in use: it works (gpu)"
    two = (signal(machine.now + TICK, False), signal(machine.now + TICK, None, name="logins"))
    assert machine.tick(signals=two).reason == "logins can't tell: no answer"


def test_use_at_any_time_before_the_stop_is_sent_ends_the_spell():
    for span, state in ((20, State.WARNED), (25, State.DRAINING)):
        machine = Machine().use()
        machine.go_on(timedelta(minutes=span))
        assert machine.memory.state is state
        epoch = machine.memory.epoch
        machine.use(TICK)
        assert machine.memory.state is State.ACTIVE
        assert machine.memory.epoch == epoch + 1
        assert bool(machine.of(Resume)) == (state is State.DRAINING)
        machine.go_on(timedelta(minutes=15))
        assert not machine.of(Stop)
        assert machine.reminded().count(Reminder.WARNED) == 2  # one for each spell


def test_use_between_two_ticks_counts_although_it_is_over():
    machine = Machine().use().go_on(timedelta(minutes=20))
    machine.last_used = machine.now + timedelta(seconds=5)
    assert machine.tick().memory.state is State.ACTIVE
    assert machine.ended[-1].length == timedelta(minutes=20) + TICK


def test_a_message_that_waits_is_use():
    machine = Machine().use().go_on(timedelta(minutes=24))
    machine.tick(queued=1)
    assert machine.memory.state is State.ACTIVE
    assert machine.last.reason == "in use: 1 messages wait (queue)"


def test_unknown_never_stops_and_is_told_once_in_an_epoch():
    machine = Machine().use()
    machine.busy = None
    machine.go_on(timedelta(hours=3))
    assert not machine.of(Stop)
    assert not machine.reminded()
    assert [alert.kind for alert in machine.of(Alert)] == [Trouble.UNKNOWN]
    assert machine.done[0][0] - machine.last_used == STOPS.unknown_alert_after + TICK


def test_time_in_which_a_sensor_was_blind_is_not_idle_time():
    machine = Machine().use().go_on(timedelta(minutes=10))
    machine.busy = None
    machine.go_on(timedelta(minutes=30))
    machine.busy = False
    machine.go_on(timedelta(minutes=30))
    assert machine.when(Stop) == timedelta(minutes=55) + TICK


def test_a_signal_that_is_old_or_missing_is_unknown():
    machine = Machine().use().go_on(timedelta(minutes=24))
    old = (signal(machine.now - timedelta(minutes=10), False),)
    machine.go_on(timedelta(minutes=10), signals=old)
    machine.go_on(timedelta(minutes=10), signals=())
    assert not machine.of(Stop)
    assert machine.last.reason == "no idle time counted: nothing is watched"


def test_downtime_is_not_idle_time_and_what_was_due_is_caught_up_if_the_spell_goes_on():
    machine = Machine().use().go_on(timedelta(minutes=10))
    machine.tick(HOUR)
    assert machine.memory.state is State.IDLE
    assert not machine.reminded()
    machine.go_on(timedelta(minutes=5))
    assert machine.reminded() == [Reminder.WARNED]
    assert machine.memory.warn_deadline == machine.now + STOPS.warn_for


def test_a_deadline_that_passed_while_nobody_looked_is_put_off():
    machine = Machine().use().go_on(timedelta(minutes=20))
    machine.tick(timedelta(hours=5))
    assert not machine.of(Drain)
    assert machine.memory.warn_deadline == machine.now + timedelta(minutes=5)


def test_after_downtime_a_spell_that_is_over_is_not_told_of():
    machine = Machine(rules=Rules()).use().go_on(timedelta(minutes=10))
    machine.last_used = machine.now + timedelta(minutes=20)
    machine.tick(HOUR)
    assert machine.memory.state is State.ACTIVE
    machine.go_on(timedelta(minutes=14))
    assert not machine.reminded()


def test_downtime_counts_where_the_rules_say_so():
    machine = Machine(rules=replace(STOPS, gaps_are_idle=True)).use().go_on(timedelta(minutes=5))
    machine.tick(HOUR)
    assert machine.reminded() == [Reminder.WARNED]
    assert machine.memory.warn_deadline == machine.now + STOPS.warn_for


@pytest.mark.parametrize("jump", [timedelta(hours=-2), timedelta(minutes=-3), timedelta(hours=6)])
def test_a_clock_that_is_set_makes_nothing_come_earlier(jump: timedelta):
    machine = Machine().use().go_on(timedelta(minutes=20))
    machine.last_used = None  # a sensor that tells of no last use
    machine.tick(jump)
    assert machine.memory.state is State.WARNED
    before = machine.now
    machine.go_on(timedelta(minutes=10))
    stopped = next(at for at, action in machine.done if isinstance(action, Stop))
    assert stopped - before == timedelta(minutes=5) + TICK


def test_reminders_escalate_where_nothing_is_stopped():
    machine = Machine(rules=Rules()).use().go_on(timedelta(hours=6))
    assert machine.reminded() == [Reminder.IDLE, Reminder.STILL_IDLE, Reminder.LONG_IDLE]
    assert [one.epoch for one in machine.of(Remind)] == [1, 1, 1]
    assert not machine.of(Stop)


def test_without_leave_to_stop_there_are_only_reminders():
    machine = Machine(rules=replace(STOPS, allow_stop=False)).use().go_on(timedelta(hours=6))
    assert machine.reminded() == [Reminder.IDLE, Reminder.STILL_IDLE, Reminder.LONG_IDLE]
    machine.tick(stop="stop")
    assert [alert.kind for alert in machine.of(Alert)] == [Trouble.STOP_REFUSED]
    assert not machine.of(Drain)


def test_a_dry_run_says_what_it_would_have_done_and_what_that_would_have_saved():
    machine = Machine(rules=replace(STOPS, dry_run=True, still_after=timedelta(days=1))).use()
    machine.go_on(timedelta(hours=2))
    machine.use()
    assert machine.reminded() == [Reminder.IDLE, Reminder.DRY_RUN, Reminder.DRY_RUN_SAVED]
    assert machine.of(Remind)[-1].saved == timedelta(minutes=95 - 5) + TICK
    assert not machine.of(Drain) + machine.of(Stop) + machine.of(Save)


def test_a_hold_lasts_and_idle_time_counts_from_its_end():
    machine = Machine().use().go_on(timedelta(minutes=20))
    held_until = machine.now + timedelta(hours=2)
    machine.tick(hold=held_until)
    assert machine.memory.state is State.HELD
    machine.go_on(timedelta(hours=3))
    stopped = next(at for at, action in machine.done if isinstance(action, Stop))
    assert timedelta(minutes=24) < stopped - held_until < timedelta(minutes=26)


def test_a_snooze_in_a_drain_takes_new_work_again():
    machine = Machine().use().go_on(timedelta(minutes=25))
    machine.tick(snooze=timedelta(minutes=30))
    assert machine.memory.state is State.HELD
    assert machine.of(Resume)
    machine.tick(release=True)
    assert machine.memory.state is State.IDLE


def test_an_operator_stops_at_once_but_not_what_is_in_use():
    machine = Machine(busy=True).go_on(MINUTE)
    machine.tick(stop="stop")
    assert machine.memory.state is State.DRAINING
    machine.go_on(STOPS.drain_limit + MINUTE)
    assert machine.memory.state is State.ACTIVE
    assert not machine.of(Stop)
    assert [alert.kind for alert in machine.of(Alert)] == [Trouble.STOP_REFUSED]
    machine.tick(stop="force")
    machine.tick()
    assert machine.of(Stop)


def test_an_operator_s_stop_waits_for_what_is_under_way():
    machine = Machine(busy=True).go_on(MINUTE)
    machine.tick(stop="stop")
    machine.go_on(MINUTE)
    machine.busy = False
    machine.tick()
    assert machine.of(Stop)


def test_the_image_is_saved_before_the_stop():
    machine = Machine(rules=replace(STOPS, save_image=True)).use().go_on(timedelta(minutes=30))
    assert machine.memory.state is State.SAVING
    assert len(machine.of(Save)) == 1
    assert not machine.of(Stop)
    machine.tick(snapshot=Snapshot.SAVED)
    assert machine.of(Stop)


def test_an_image_that_is_not_saved_asks_a_human_and_stops_nothing():
    machine = Machine(rules=replace(STOPS, save_image=True)).use().go_on(timedelta(minutes=30))
    machine.tick(snapshot=Snapshot.FAILED)
    machine.go_on(timedelta(hours=8), snapshot=Snapshot.FAILED)
    assert machine.memory.state is State.DEGRADED
    assert [alert.kind for alert in machine.of(Alert)] == [Trouble.SAVE_FAILED]
    assert machine.of(Resume)
    assert not machine.of(Stop)
    machine.tick(stop="force")
    machine.tick()
    assert machine.of(Stop)  # without it


def test_calls_that_are_refused_are_made_again_later_and_later_and_a_human_is_told():
    machine = Machine(refuses=True).use().go_on(timedelta(hours=4))
    times = [at for at, action in machine.done if isinstance(action, Stop)]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits[:4] == [timedelta(seconds=s) for s in (40, 60, 100, 180)]  # the refusal is known one tick later
    assert max(waits) == STOPS.retry_most + TICK
    assert machine.memory.state is State.DEGRADED
    assert [alert.kind for alert in machine.of(Alert)] == [Trouble.STOP_FAILED]
    machine.refuses = False
    machine.go_on(timedelta(minutes=20))
    assert machine.memory.state is State.STOPPED


def test_use_while_a_refused_stop_waits_for_its_next_try_ends_the_spell():
    machine = Machine(refuses=True).use().go_on(timedelta(minutes=40))
    assert machine.memory.state is State.DEGRADED
    machine.use(TICK)
    assert machine.memory.state is State.ACTIVE
    assert machine.of(Resume)


def test_a_refused_stop_is_not_tried_again_while_a_sensor_is_blind():
    machine = Machine(refuses=True).use().go_on(timedelta(minutes=27))
    tries = len(machine.of(Stop))
    machine.busy = None
    machine.go_on(HOUR)
    assert len(machine.of(Stop)) == tries
    assert machine.memory.trying is State.STOPPING
    machine.busy = False
    machine.tick()
    assert len(machine.of(Stop)) == tries + 1


def test_a_stop_without_effect_is_a_failure():
    machine = Machine().use().go_on(timedelta(minutes=24))
    machine.go_on(timedelta(minutes=2) + STOPS.stop_limit, status="Running")
    assert machine.memory.failures == 1


def test_without_stock_it_warns_and_asks_instead_of_stopping():
    machine = Machine().use().go_on(timedelta(hours=2), stock=False)
    assert machine.reminded() == [Reminder.STOCK_OUT]
    machine.go_on(timedelta(minutes=11), stock=True)
    assert machine.reminded() == [Reminder.STOCK_OUT, Reminder.WARNED, Reminder.LAST_CALL]
    assert machine.of(Stop)


def test_stock_that_runs_out_after_the_warning_puts_the_deadline_off():
    machine = Machine().use().go_on(timedelta(minutes=20))
    machine.go_on(timedelta(hours=2), stock=False)
    assert machine.memory.state is State.WARNED
    assert machine.memory.warn_deadline >= machine.now + STOPS.last_call
    assert machine.reminded() == [Reminder.WARNED, Reminder.STOCK_OUT]


def test_without_stock_it_stops_all_the_same_where_the_rules_say_so():
    machine = Machine(rules=replace(STOPS, ask_without_stock=False)).use().go_on(timedelta(minutes=30), stock=False)
    assert machine.reminded() == [Reminder.WARNED, Reminder.STOCK_OUT, Reminder.LAST_CALL]
    assert machine.of(Stop)


def test_a_message_wakes_what_is_stopped_and_the_whole_gap_is_learned_from():
    machine = Machine().use().go_on(timedelta(hours=5))
    used = machine.last_used
    machine.tick(queued=2)
    assert machine.memory.state is State.WAKING
    assert machine.ended[-1].start == used
    assert machine.ended[-1].end == machine.now
    assert machine.ended[-1].ended_by == "requests"
    machine.tick(queued=2, ready=False)
    machine.tick(queued=2, ready=False)
    assert machine.memory.state is State.WARMING
    machine.tick()
    assert machine.memory.state is State.ACTIVE
    assert machine.memory.woken_at == machine.now


def test_after_a_wake_it_stays_up_for_a_while():
    rules = replace(STOPS, min_uptime=HOUR)
    machine = Machine(rules=rules).use().go_on(HOUR)
    machine.go_on(timedelta(minutes=1), queued=1)
    woken = machine.memory.woken_at
    machine.go_on(timedelta(hours=2))
    assert [at for at, action in machine.done if isinstance(action, Stop)][1] >= woken + HOUR


def test_what_must_not_be_woken_is_not_and_a_human_is_told_once():
    machine = Machine().use().go_on(HOUR)
    machine.go_on(HOUR, queued=1, blocked="the budget is spent")
    assert machine.memory.state is State.BLOCKED
    assert [alert.reason for alert in machine.of(Alert)] == ["the budget is spent"]
    assert not machine.of(Wake)
    machine.tick(queued=1)
    assert machine.of(Wake)


def test_arrears_block_until_they_are_paid():
    machine = Machine().use()
    machine.go_on(HOUR, status="Arrearge")
    assert machine.memory.state is State.BLOCKED
    assert len(machine.of(Alert)) == 1
    machine.tick(status="Stopped")
    assert machine.memory.state is State.STOPPED


def test_a_wake_that_is_refused_is_tried_again_and_a_human_is_told():
    machine = Machine().use().go_on(HOUR)
    machine.refuses = True
    machine.go_on(HOUR, queued=1)
    assert machine.memory.state is State.DEGRADED
    assert [alert.kind for alert in machine.of(Alert)] == [Trouble.WAKE_FAILED]
    machine.refuses = False
    machine.go_on(timedelta(minutes=20), queued=1)
    assert machine.memory.state is State.ACTIVE


def test_a_model_that_does_not_load_is_told_of_and_the_machine_still_watched():
    machine = Machine().use().go_on(HOUR)
    machine.tick(queued=1)
    machine.go_on(timedelta(hours=1), ready=False)
    assert Trouble.NOT_READY in [alert.kind for alert in machine.of(Alert)]
    assert len(machine.of(Stop)) == 2


def test_somebody_else_stops_and_starts_it():
    machine = Machine().use()
    machine.tick(status="Stopping")
    assert machine.memory.state is State.STOPPING
    machine.tick(status="Stopped", signals=())
    assert machine.memory.state is State.STOPPED
    machine.tick(status="Starting", signals=())
    assert machine.memory.state is State.WAKING
    machine.tick(status="Running")
    machine.tick(status="Running")
    assert machine.memory.state is State.ACTIVE
    assert not machine.of(Stop) + machine.of(Wake)


def test_a_service_on_the_instance_itself_knows_that_it_was_woken():
    machine = Machine().use().go_on(timedelta(minutes=25) + TICK)
    assert machine.memory.state is State.STOPPING
    machine.status = "Running"
    machine.tick(timedelta(hours=9), up_since=machine.now + timedelta(hours=8, minutes=59))
    assert machine.memory.state is State.WARMING
    machine.go_on(timedelta(minutes=10))
    assert machine.memory.state is State.IDLE
    assert len(machine.of(Stop)) == 1


def test_the_timer_is_set_anew_while_it_runs_and_lifted_when_it_stopped():
    machine = Machine(rules=replace(STOPS, timer=HOUR), busy=True)
    machine.go_on(timedelta(hours=2))
    times = [at for at, action in machine.done if isinstance(action, RearmTimer)]
    assert len(times) == 6
    assert all(action.until - at == HOUR for at, action in machine.done if isinstance(action, RearmTimer))
    machine.busy = False
    machine.go_on(HOUR)
    assert len(machine.of(LiftTimer)) == 1


# The learned limit


def test_a_learned_limit_moves_the_stop_and_its_warning():
    machine = Machine().use().go_on(timedelta(minutes=10), limit=timedelta(minutes=6))
    assert timedelta(minutes=6) <= machine.when(Stop) <= timedelta(minutes=6) + 2 * TICK
    assert machine.when(Remind) == timedelta(minutes=3, seconds=40)  # the first tick after 6 min less 40 % of them


@given(st.integers(0, 10_000), st.integers(1, 120), st.integers(0, 60))
def test_the_learned_limit_has_a_floor_a_ceiling_and_a_warning(limit: int, after: int, warn_for: int):
    rules = replace(STOPS, after=after * MINUTE, warn_for=warn_for * MINUTE)
    memory = Memory(idle_since=START)
    planned = plan(memory, Situation(START, (), limit=limit * MINUTE), rules)
    whole = rules.after + rules.warn_for
    assert min(rules.floor, whole) <= planned.stop_at - START <= whole
    assert planned.stop_at - planned.warn_at == planned.warning
    assert planned.warning >= min(rules.least_warning, rules.warn_for, planned.stop_at - START)


# Quiet hours

BERLIN = QuietHours.parse("23:00-08:00", "Europe/Berlin")


def test_in_quiet_hours_messages_wait_and_are_caught_up():
    evening = datetime(2026, 3, 10, 22, tzinfo=UTC)  # 23:00 in Berlin
    machine = Machine(rules=replace(STOPS, quiet=BERLIN), now=evening).use().go_on(timedelta(hours=8))
    assert not machine.done
    machine.go_on(timedelta(hours=1, minutes=5))
    assert machine.reminded() == [Reminder.WARNED]
    assert machine.done[0][0].astimezone(BERLIN.zone).strftime("%H:%M") == "08:00"
    assert machine.of(Remind)[0].deadline == machine.done[0][0] + STOPS.warn_for


def test_messages_are_dropped_if_the_spell_ends_in_quiet_hours():
    evening = datetime(2026, 3, 10, 22, tzinfo=UTC)
    machine = Machine(rules=replace(STOPS, quiet=BERLIN), now=evening).use().go_on(timedelta(hours=8, minutes=50))
    machine.use().go_on(timedelta(minutes=14))
    assert not machine.reminded()


def test_in_quiet_hours_it_may_act_without_a_word():
    evening = datetime(2026, 3, 10, 23, tzinfo=UTC)
    machine = Machine(rules=replace(STOPS, quiet=BERLIN, in_quiet="act"), now=evening).use().go_on(HOUR)
    assert machine.when(Stop) == timedelta(minutes=25) + TICK
    assert not machine.reminded()


def test_in_quiet_hours_it_may_keep_everything_as_it_is():
    evening = datetime(2026, 3, 10, 23, tzinfo=UTC)
    machine = Machine(rules=replace(STOPS, quiet=BERLIN, in_quiet="hold"), now=evening).use()
    machine.go_on(timedelta(hours=8, minutes=13))
    assert not machine.done  # idle time counts from eight o'clock on
    machine.go_on(timedelta(minutes=2))
    assert machine.reminded() == [Reminder.WARNED]


def test_a_warning_before_quiet_hours_leads_to_no_stop_in_them():
    evening = datetime(2026, 3, 10, 21, 43, tzinfo=UTC)
    machine = Machine(rules=replace(STOPS, quiet=BERLIN), now=evening).use().go_on(timedelta(hours=9))
    assert machine.reminded() == [Reminder.WARNED]
    assert not machine.of(Drain)
    machine.go_on(timedelta(minutes=30))
    assert machine.of(Stop)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 27), 9), ((2026, 3, 28), 8), ((2026, 10, 24), 10)])
def test_quiet_hours_follow_the_clock_on_the_wall(day: tuple[int, int, int], hours: int):
    begin = datetime(*day, 12, tzinfo=UTC)
    minutes = sum(BERLIN.cover(begin + n * MINUTE) for n in range(24 * 60))
    assert minutes == hours * 60
    first = next(begin + n * MINUTE for n in range(24 * 60) if BERLIN.cover(begin + n * MINUTE))
    assert first.astimezone(ZoneInfo("Europe/Berlin")).hour == 23


def test_quiet_hours_that_make_no_sense_are_refused():
    for text in ("23-8", "25:00-08:00", "08:00-08:00", "10:00-11:60"):
        with pytest.raises(QuietHoursInvalid):
            QuietHours.parse(text, "UTC")
    assert not QuietHours.parse("", "UTC").cover(START)
    assert QuietHours.parse("00:00-24:00", "UTC").cover(START)


# Whatever happens

STEPS = st.sampled_from([20, 20, 20, 20, 20, 60, 120, 290, 400, 4000, -30, -4000])
BUSY = st.sampled_from([False, False, False, False, False, False, True, None])
LIMITS = st.none() | st.integers(0, 30).map(lambda minutes: minutes * MINUTE)


@st.composite
def events(draw: Any) -> list[dict[str, Any]]:
    """Spans of the same, as they come on a machine, with now and then something odd."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        seen = {"step": draw(STEPS), "busy": draw(BUSY), "limit": draw(LIMITS), "refuses": draw(st.booleans())}
        seen |= {"stock": draw(st.sampled_from([None, True, True, False])), "ask": draw(st.integers(0, 9))}
        found += [seen] + [{**seen, "ask": 9}] * draw(st.integers(0, 40))
    return found


QUIET = st.sampled_from(["", "08:10-08:40", "08:20-10:00,12:00-13:00"])
RULES = st.builds(
    lambda quiet, in_quiet, image, uptime: replace(
        STOPS, quiet=QuietHours.parse(quiet, "UTC"), in_quiet=in_quiet, save_image=image, min_uptime=uptime * MINUTE
    ),
    QUIET, st.sampled_from(["later", "hold", "act"]), st.booleans(), st.integers(0, 60),
)  # fmt: skip


def asks(number: int, now: datetime) -> dict[str, Any]:
    return {0: {"hold": now + HOUR}, 1: {"snooze": timedelta(minutes=10)}, 2: {"queued": 1}}.get(number, {})


@settings(max_examples=80, deadline=None)
@given(RULES, events())
def test_whatever_happens_nothing_in_use_is_stopped_and_nothing_is_told_twice(
    rules: Rules, story: list[dict[str, Any]]
):
    machine = Machine(rules=rules).use()
    for event in story:
        machine.busy, machine.refuses = event["busy"], event["refuses"]
        asked = asks(event["ask"], machine.now + timedelta(seconds=event["step"]))
        before = machine.memory
        snapshot = Snapshot.SAVED if before.state is State.SAVING else None
        decision = machine.tick(
            timedelta(seconds=event["step"]), limit=event["limit"], stock=event["stock"], snapshot=snapshot, **asked
        )
        after = decision.memory
        if any(isinstance(action, Stop) for action in decision.actions):
            assert machine.busy is False, decision.reason
            assert not asked
            assert before.held_until is None or machine.now >= before.held_until
            assert after.woken_at is None or machine.now >= after.woken_at + rules.min_uptime
        assert decision.reason
    told = Counter((one.epoch, one.kind) for one in machine.of(Remind))
    assert not [key for key, count in told.items() if count > 1]
    keys = Counter(alert.key for alert in machine.of(Alert))
    assert not [key for key, count in keys.items() if count > 1]


@settings(max_examples=80, deadline=None)
@given(RULES, events())
def test_no_stop_comes_without_its_warning_unless_the_hours_are_quiet(rules: Rules, story: list[dict[str, Any]]):
    rules = replace(rules, in_quiet="later")
    machine = Machine(rules=rules).use()
    for event in story:
        machine.busy, machine.refuses = event["busy"], event["refuses"]
        step = timedelta(seconds=abs(event["step"]))
        snapshot = Snapshot.SAVED if machine.memory.state is State.SAVING else None
        machine.tick(step, limit=event["limit"], stock=event["stock"], snapshot=snapshot)
    warned = {one.epoch: at for at, one in machine.done if isinstance(one, Remind) and one.kind is Reminder.WARNED}
    for at, one in machine.done:
        if isinstance(one, Stop):
            assert at - warned[one.epoch] >= rules.least_warning


@settings(max_examples=60, deadline=None)
@given(RULES, events())
def test_a_restart_changes_no_decision(rules: Rules, story: list[dict[str, Any]]):
    steady, restarted = Machine(rules=rules), Machine(rules=rules)
    for event in story:
        for machine in (steady, restarted):
            machine.busy, machine.refuses = event["busy"], event["refuses"]
            machine.tick(timedelta(seconds=event["step"]), limit=event["limit"], stock=event["stock"])
        restarted.memory = msgspec.json.decode(msgspec.json.encode(restarted.memory), type=Memory)
        assert restarted.last == steady.last


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, st.sampled_from([False, False, False, None])), max_size=200))
def test_no_clock_makes_idle_time_longer_than_what_was_seen(story: list[tuple[int, bool | None]]):
    machine = Machine(rules=Rules()).use()
    machine.last_used = None
    seen = timedelta()
    for seconds, busy in story:
        machine.busy = busy
        step = timedelta(seconds=seconds)
        machine.tick(step)
        if busy is False and timedelta() <= step <= STOPS.gap:
            seen += step
        if machine.memory.idle_since:
            assert machine.now - machine.memory.idle_since <= seen


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 120), st.lists(BUSY, max_size=30))
def test_nothing_is_stopped_before_a_hold_ends_nor_soon_after_a_wake(held: int, uptime: int, story: list[bool | None]):
    rules = replace(STOPS, min_uptime=uptime * MINUTE)
    machine = Machine(rules=rules).use().go_on(HOUR)
    machine.go_on(MINUTE, queued=1)
    woken_at = machine.memory.woken_at
    held_until = machine.now + held * MINUTE
    machine.tick(hold=held_until)
    for busy in story:
        machine.busy = busy
        machine.go_on(timedelta(minutes=15), limit=timedelta(minutes=5))
    for at, action in machine.done:
        if isinstance(action, Stop) and at > woken_at:
            assert at >= held_until
            assert at >= woken_at + rules.min_uptime
