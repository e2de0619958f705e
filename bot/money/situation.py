"""What the policy decides from and what it decides: plain frozen values, all times in UTC."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from bot.money.evidence import Signal
from bot.money.learning import Gap
from bot.money.quiet import NO_QUIET_HOURS, QuietHours


class State(StrEnum):
    """Where the instance stands."""

    ACTIVE = "active"
    IDLE = "idle"  # nothing uses it
    WARNED = "warned"  # the operators know when it will be stopped
    HELD = "held"  # somebody wants it kept up
    DRAINING = "draining"  # takes no new work
    SAVING = "saving"  # its image is being saved
    STOPPING = "stopping"
    STOPPED = "stopped"
    WAKING = "waking"
    WARMING = "warming"  # it runs, the model is being loaded
    DEGRADED = "degraded"  # what was decided does not succeed; a human knows
    BLOCKED = "blocked"  # stopped, and not to be woken: the budget is spent, or the account in arrears


UP = (State.ACTIVE, State.IDLE, State.WARNED, State.HELD, State.DRAINING, State.SAVING)


class Reminder(StrEnum):
    """What the operators are told, each once in an idle spell."""

    IDLE = "idle"
    STILL_IDLE = "still_idle"
    LONG_IDLE = "long_idle"
    WARNED = "warned"  # with the deadline
    LAST_CALL = "last_call"
    STOCK_OUT = "stock_out"  # you may not get this GPU back
    DRY_RUN = "dry_run"  # it would have been stopped now
    DRY_RUN_SAVED = "dry_run_saved"  # what that would have saved, now that the spell is over


class Trouble(StrEnum):
    """What needs a human, each told once in an idle spell."""

    UNKNOWN = "unknown"
    STOP_FAILED = "stop_failed"
    STOP_REFUSED = "stop_refused"  # asked for, but not allowed, or something is in use
    SAVE_FAILED = "save_failed"
    WAKE_FAILED = "wake_failed"
    WAKE_BLOCKED = "wake_blocked"
    NOT_READY = "not_ready"


class Snapshot(StrEnum):
    """How far saving the image has come."""

    RUNNING = "running"
    SAVED = "saved"
    FAILED = "failed"


Ask = Literal["", "stop", "force"]  # "force": also while something is in use, which the operator was told


@dataclass(frozen=True, slots=True)
class Remind:
    """`idle`: for how long nothing has used it. `saved`: the time that a stop would have saved, less that of a wake."""

    kind: Reminder
    epoch: int
    idle: timedelta
    reason: str
    deadline: datetime | None = None
    saved: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    kind: Trouble
    key: str  # the same however often this one is raised
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    epoch: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Takes new work again, after a drain."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Save:
    epoch: int


@dataclass(frozen=True, slots=True)
class Stop:
    epoch: int


@dataclass(frozen=True, slots=True)
class ConfirmStop:
    """DSW says that it is stopped: see that it is no longer paid for."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Wake:
    epoch: int


@dataclass(frozen=True, slots=True)
class RearmTimer:
    """DSW itself stops the instance then, unless the timer is set anew before."""

    until: datetime


@dataclass(frozen=True, slots=True)
class LiftTimer:
    pass


Action = Remind | Alert | Drain | Resume | Save | Stop | ConfirmStop | Wake | RearmTimer | LiftTimer


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept from tick to tick, across restarts too."""

    state: State = State.ACTIVE
    since: datetime | None = None  # in this state, or since its call was last made
    epoch: int = 1  # one for each idle spell
    unused_since: datetime | None = None  # the last use that is known
    used_by: str = ""  # the signal that knew of it
    idle_since: datetime | None = None  # from when idle time counts: what could not be seen has moved it on
    warn_deadline: datetime | None = None
    held_until: datetime | None = None
    unknown_since: datetime | None = None
    failures: int = 0  # of the call that is being tried, in a row
    next_try_at: datetime | None = None  # of that call; None where it is under way
    trying: State | None = None  # STOPPING or WAKING: which call
    woken_at: datetime | None = None
    saved: bool = False  # the image, in this epoch
    asked: Ask = ""  # an operator wants it stopped
    would_stop_at: datetime | None = None  # when a dry run would have stopped it
    timer_until: datetime | None = None
    last_tick_at: datetime | None = None
    sent: tuple[Reminder, ...] = ()  # in this epoch
    raised: tuple[Trouble, ...] = ()  # in this epoch


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known at one instant. What operators ask is given once, at the next tick."""

    now: datetime
    signals: tuple[Signal, ...]
    status: str | None = None  # as the DSW API names it; None: not known, or no DSW
    up_since: datetime | None = None  # when the instance last began to run
    queued: int = 0  # messages that wait for the instance
    ready: bool = True  # the model is loaded
    drained: bool = False
    snapshot: Snapshot | None = None
    stock: bool | None = None  # whether such a GPU could be had now
    blocked: str = ""  # why it must not be woken
    failed: str = ""  # how the call of the last tick was refused
    limit: timedelta | None = None  # idle time after which a stop pays, as learned from past gaps
    hold: datetime | None = None  # asked: keep it up until then
    snooze: timedelta | None = None  # asked: leave it alone for so long
    release: bool = False  # asked: no hold any more
    stop: Ask = ""
    wake: bool = False  # asked


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings."""

    after: timedelta = timedelta(minutes=15)  # of idleness until somebody is told
    warn_for: timedelta = timedelta(minutes=10)  # from then until the stop
    action: Literal["remind", "stop"] = "remind"
    allow_stop: bool = False
    dry_run: bool = True
    save_image: bool = False
    quiet: QuietHours = NO_QUIET_HOURS
    in_quiet: Literal["later", "hold", "act"] = "later"
    floor: timedelta = timedelta(minutes=5)  # no learned limit is shorter
    least_warning: timedelta = timedelta(minutes=2)  # before a stop that was learned
    last_call: timedelta = timedelta(minutes=2)  # before the deadline
    still_after: timedelta = timedelta(hours=1)  # the second reminder, where nothing is stopped
    long_after: timedelta = timedelta(hours=4)  # the third
    min_uptime: timedelta = timedelta(minutes=5)  # after a wake
    wake_takes: timedelta = timedelta(minutes=5)  # paid, before it is of use
    ask_without_stock: bool = True  # rather than stop what may not come back
    unknown_alert_after: timedelta = timedelta(hours=1)
    stale_after: timedelta = timedelta(minutes=2)  # a signal tells nothing any more
    gap: timedelta = timedelta(minutes=5)  # between ticks: more was not watched
    gaps_are_idle: bool = False  # where nothing shows use
    drain_limit: timedelta = timedelta(minutes=5)
    save_limit: timedelta = timedelta(hours=1)
    stop_limit: timedelta = timedelta(minutes=15)
    wake_limit: timedelta = timedelta(minutes=30)
    warm_limit: timedelta = timedelta(minutes=15)
    retry_first: timedelta = timedelta(seconds=20)  # doubles from failure to failure
    retry_most: timedelta = timedelta(minutes=15)
    degraded_after: int = 3  # failures
    timer: timedelta | None = None  # after which DSW stops an instance whose service hangs; None: never

    @property
    def stops(self) -> bool:
        return self.action == "stop" and self.may_stop

    @property
    def may_stop(self) -> bool:
        """Also where an operator asks."""
        return self.allow_stop and not self.dry_run

    @property
    def reports(self) -> bool:
        """Only says when it would stop."""
        return self.action == "stop" and self.dry_run


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason`: one line for humans that names what decided. `ended`: the idle spell that is over, for learning."""

    memory: Memory
    actions: tuple[Action, ...] = ()
    reason: str = ""
    ended: Gap | None = None
