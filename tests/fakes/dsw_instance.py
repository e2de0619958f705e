"""An instance as the fake DSW keeps it: its states, sessions, timer, idle rule and snapshots, moved on by a clock.

Nothing happens by itself: `settle(now)` lets all happen, in order, that was due until then.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count

from tests.fakes.dsw_bill import MINUTE, Account, Spec
from tests.fakes.dsw_faults import Refused

DOWN = frozenset({"Stopped", "Failed", "Arrearge"})
# The GPU is occupied, and paid for.
PAID = frozenset(
    {"ResourceAllocating", "Starting", "EnvPreparing", "Running", "Saving", "Saved", "SaveFailed", "Updating",
     "Recovering", "Stopping", "ArrearStopping"}
)  # fmt: skip
RUNNING = frozenset({"Running", "Saving", "Saved", "SaveFailed"})
STOPPABLE = (PAID | {"Creating", "Queuing"}) - {"Saving", "Saved", "Stopping", "ArrearStopping"}
SAVABLE = frozenset({"Running", "SaveFailed"})
NEVER = timedelta(days=36500)


@dataclass
class Pace:
    """How long each state lasts on the way."""

    queuing: timedelta = timedelta()
    allocating: timedelta = timedelta(seconds=10)
    starting: timedelta = timedelta(seconds=30)
    preparing: timedelta = timedelta(seconds=60)
    committing: timedelta = timedelta(seconds=30)
    pushing: timedelta = timedelta(seconds=90)
    saved: timedelta = timedelta(seconds=5)
    stopping: timedelta = timedelta(seconds=20)


AT_ONCE = Pace(*[timedelta()] * 8)


@dataclass
class Entry:
    """One state of a session."""

    id: str
    status: str
    at: datetime
    end: datetime | None = None
    code: str = ""
    message: str = ""


@dataclass
class Timer:
    due: datetime
    created: datetime


@dataclass
class Culler:
    """`idle`: how long both were below their limits."""

    cpu: int
    gpu: int
    minutes: int
    idle: timedelta = timedelta()


@dataclass
class Snapshot:
    id: str
    name: str
    image_url: str
    created: datetime
    modified: datetime
    status: str = "Committing"
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Load:
    """What it is used: percent of GPU and CPU, bytes a second of the network."""

    gpu: float = 0.0
    cpu: float = 0.0
    received: float = 0.0
    sent: float = 0.0


@dataclass(frozen=True)
class Step:
    """What happens at a moment: a new status, or a new one of the snapshot."""

    at: datetime
    status: str = ""
    snapshot: str = ""
    code: str = ""
    message: str = ""


@dataclass
class Instance:
    """`start_fails`, `save_fails`: the reason code with which that ends, where it does not succeed."""

    id: str
    account: Account
    spec: Spec
    created: datetime
    status: str = "Running"
    pace: Pace = field(default_factory=Pace)
    start_fails: str = ""
    save_fails: str = ""
    disk_yuan_per_hour: float = 0.0
    timer: Timer | None = None
    culler: Culler | None = None
    snapshots: list[Snapshot] = field(default_factory=list)
    sessions: list[list[Entry]] = field(default_factory=list)
    loads: list[tuple[datetime, Load]] = field(default_factory=list)
    ran: timedelta = timedelta()
    changed: datetime = field(init=False)

    def __post_init__(self) -> None:
        self._ids = count(1)
        self._at = self.changed = self.created
        self._plan: deque[Step] = deque()
        self._paid_until: datetime | None = None
        self.sessions.append([])
        self._enter(Step(self.created, self.status))
        self.loads.append((self.created, Load()))

    # What is asked of it; `now` is when, and all that was due before has happened

    def start(self, now: datetime) -> None:
        if self.status not in ("Stopped", "Failed"):
            raise Refused(400, "ValidationError", f"The instance can't be started: its status is {self.status}.")
        if not self.account.sufficient:
            raise Refused(400, "ValidationError", "The account balance is insufficient.")
        pace, reason = self.pace, "" if self.spec.available else "ResourceNotEnough"
        self.sessions.append([])
        steps = [("Creating", timedelta())]
        if pace.queuing:
            steps.append(("Queuing", timedelta()))
        steps.append(("ResourceAllocating", pace.queuing))
        if reason:
            self._plan_steps(now, [*steps, ("Failed", pace.allocating)], reason, "No such resource is in stock.")
            return
        steps += [("Starting", pace.allocating), ("EnvPreparing", pace.starting)]
        last = "Failed" if self.start_fails else "Running"
        self._plan_steps(now, [*steps, (last, pace.preparing)], self.start_fails, "The instance did not start.")

    def stop(self, now: datetime, *, save: bool = False) -> None:
        """Saving comes first; where that fails, it is not stopped."""
        if self.status not in STOPPABLE:
            raise Refused(400, "ValidationError", f"The instance can't be stopped: its status is {self.status}.")
        if save:
            self._save(now, "saved-on-stop", "registry.fake/saved:latest", then="Stopping")
        else:
            self._plan_steps(now, [("Stopping", timedelta()), ("Stopped", self.pace.stopping)])

    def snapshot(self, now: datetime, name: str, image_url: str) -> Snapshot:
        self._save(now, name, image_url, then="Running")
        return self.snapshots[-1]

    def fall_into_arrears(self, now: datetime) -> None:
        self.settle(now)
        self._plan_steps(now, [("ArrearStopping", timedelta()), ("Arrearge", self.pace.stopping)])

    def crash(self, now: datetime, code: str = "InternalError") -> None:
        self.settle(now)
        self._plan_steps(now, [("Failed", timedelta())], code, "The instance has failed.")

    def use(self, now: datetime, load: Load) -> None:
        """So much from now on."""
        self.settle(now)
        self.loads.append((now, load))

    def set_timer(self, now: datetime, due: datetime) -> None:
        if self.timer:
            raise Refused(400, "ValidationError", "The instance has a shutdown timer already.")
        if self.status in DOWN or due <= now:
            raise Refused(400, "ValidationError", f"No timer can be set: it is {self.status}, due {due}.")
        self.timer = Timer(due, now)

    def set_culler(self, culler: Culler) -> None:
        if self.culler:
            raise Refused(400, "ValidationError", "The instance has an idle culler already.")
        self.culler = culler

    # How time passes

    def settle(self, now: datetime) -> None:
        while True:
            moments = (self._plan[0].at if self._plan else None, self.timer.due if self.timer else None, self._culled())
            due = min((moment for moment in moments if moment), default=None)
            if due is None or due > now:
                break
            self._pass(due)
            if moments[0] == due:
                self._enter(self._plan.popleft())
            else:
                self._stop_by_itself(due, "ShutdownTimer" if moments[1] == due else "IdleInstanceCuller")
        self._pass(now)

    def _pass(self, until: datetime) -> None:
        span = until - self._at
        if span <= timedelta():
            return
        if self.status in RUNNING:
            self.ran += span
        if self.culler:
            self.culler.idle = self.culler.idle + span if self._below() else timedelta()
        if self.status in PAID:
            self._paid_until = self._paid_until or self._at
            while self._paid_until < until:
                self.account.charge_minute(self._paid_until, self.spec)
                self._paid_until += MINUTE
        if self.disk_yuan_per_hour:
            self.account.charge_disk(self._at, span, self.disk_yuan_per_hour)
        self._at = until

    def _below(self) -> bool:
        load = self.loads[-1][1]
        return (
            self.culler is not None and self.status in RUNNING
            and load.cpu < self.culler.cpu and load.gpu < self.culler.gpu
        )  # fmt: skip

    def _culled(self) -> datetime | None:
        if self.culler is None or not self._below() or self.status not in STOPPABLE:
            return None
        return self._at + max(timedelta(minutes=self.culler.minutes) - self.culler.idle, timedelta())

    def _stop_by_itself(self, at: datetime, code: str) -> None:
        self.timer = self.timer if code != "ShutdownTimer" else None
        if self.status in STOPPABLE:
            steps = [("Stopping", timedelta()), ("Stopped", self.pace.stopping)]
            self._plan_steps(at, steps, code, "Stopped automatically.")

    def _save(self, now: datetime, name: str, image_url: str, then: str) -> None:
        if self.status not in SAVABLE:
            raise Refused(400, "ValidationError", f"The image can't be saved: the status is {self.status}.")
        self.snapshots.append(Snapshot(f"snp-{next(self._ids):04}", name, image_url, now, now))
        pushing = now + self.pace.committing
        done = pushing + self.pace.pushing
        steps = [Step(now, "Saving"), Step(pushing, snapshot="Pushing")]
        if self.save_fails:
            steps.append(Step(done, "SaveFailed", "Failed", self.save_fails, "The image was not saved."))
        else:
            left = done + self.pace.saved
            steps += [Step(done, "Saved", "Saved"), Step(left, then)]
            steps += [Step(left + self.pace.stopping, "Stopped")] if then == "Stopping" else []
        self._plan = deque(steps)
        self.settle(now)

    def _plan_steps(self, now: datetime, waits: list[tuple[str, timedelta]], code: str = "", message: str = "") -> None:
        """Each state and how long after the one before it comes; the last one has the reason."""
        at, steps = now, []
        for status, wait in waits:
            at += wait
            steps.append(Step(at, status))
        steps[-1] = replace(steps[-1], code=code, message=message if code else "")
        self._plan = deque(steps)
        self.settle(now)

    def _enter(self, step: Step) -> None:
        if step.snapshot:
            shot = self.snapshots[-1]
            shot.status, shot.modified, shot.code, shot.message = step.snapshot, step.at, step.code, step.message
        if not step.status:
            return
        self.status, self.changed = step.status, step.at
        session = self.sessions[-1]
        if session:
            session[-1].end = step.at
        session.append(Entry(f"{self.id}-{next(self._ids)}", step.status, step.at, None, step.code, step.message))
        if step.status in DOWN:
            self.timer = self._paid_until = None
        if self.culler and step.status not in RUNNING:
            self.culler.idle = timedelta()
