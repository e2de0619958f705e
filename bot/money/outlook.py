"""From what was seen and asked to the policy's situation, and from that to the ledger's words. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import structlog

from bot.money.evidence import Signal
from bot.money.instance import View
from bot.money.learning import Estimate, Gap, suggest
from bot.money.market import Market
from bot.money.notice import Kind, Notice
from bot.money.notices import Moment
from bot.money.situation import Memory, Situation, Snapshot, State
from bot.money.stopping import DOWN, GOING, STARTING
from storage.orders import Order

log = structlog.get_logger()

SAME = timedelta(minutes=1)  # by which our clock may be ahead of the cloud's
SHUT = {
    State.DRAINING: "the instance is about to be stopped", State.SAVING: "the instance's image is being saved",
    State.STOPPING: "the instance is being stopped", State.STOPPED: "the instance is stopped",
    State.BLOCKED: "the instance is stopped, and may not be started", State.WAKING: "the instance is being started",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outlook:
    """All that one tick has seen. `waiting`: messages. `failed`: how the last tick's call was refused."""

    at: datetime
    before: Memory
    view: View
    market: Market
    signals: tuple[Signal, ...]
    asked: Sequence[Order]
    estimate: Estimate | None
    waiting: int
    generating: int
    ready: bool
    failed: str

    @property
    def situation(self) -> Situation:
        """What operators ask is in it in the order in which they asked: the newest word counts."""
        spent = self.market.sufficient is False
        situation = Situation(
            self.at, self.signals, status=self.view.status, up_since=self.view.up_since, queued=self.waiting,
            ready=self.ready, drained=not self.generating, snapshot=self._snapshot, stock=self.market.stock,
            failed=self.failed, blocked="the account has nothing left to pay with" if spent else "",
            limit=self.estimate.limit if self.estimate else None,
        )  # fmt: skip
        for order in self.asked:
            situation = _ordered(situation, order)
        return situation

    @property
    def _snapshot(self) -> Snapshot | None:
        """Of the saving that was asked for: an earlier one says nothing of it."""
        began = self.view.snapshot_at
        asked = self.before.since if self.before.state is State.SAVING else None
        return self.view.snapshot if asked and began and began >= asked - SAME else None


def _ordered(situation: Situation, order: Order) -> Situation:
    match order.kind:
        case "stop" | "force":
            return replace(situation, stop=order.kind, hold=None, release=False)
        case "hold":
            return replace(situation, hold=order.until, stop="", release=False)
        case "release":
            return replace(situation, release=True, hold=None)
        case "wake":
            return replace(situation, wake=True)
        case "mute":
            return situation


def shut_because(memory: Memory) -> str:
    """Why nothing new is begun in this state; empty where it is."""
    if memory.state is State.DEGRADED and memory.trying:
        return SHUT[memory.trying]
    return SHUT.get(memory.state, "")


def ledger_state(state: State, status: str | None, *, idle: bool) -> str:
    """One of the ledger's states; what DSW says comes first. `idle`: nothing uses it, as far as is known."""
    if status is None:
        return "unknown" if state not in (State.STOPPED, State.BLOCKED) else "stopped"
    if status in STARTING:
        return "starting"
    if status in ("Saving", "Saved", "SaveFailed"):
        return "saving"
    if status in GOING:
        return "stopping"
    if status in DOWN:
        return "stopped"
    return "warming" if state is State.WARMING else "idle" if idle else "used"


def suggestion(gaps: Sequence[Gap], moment: Moment) -> Notice | None:
    """A better `idle.after` than the present one, once a week."""
    rules = moment.rules
    better = suggest(gaps, moment.at, present=rules.after, wake=rules.wake_takes, floor=rules.floor,
                     warn_for=rules.warn_for, yuan_per_hour=moment.market.price.yuan_per_hour)  # fmt: skip
    if better is None or better.weeks > 4:
        return None
    year, week, _ = moment.at.isocalendar()
    return Notice(
        kind=Kind.SUGGESTION, key=f"{moment.instance}:{Kind.SUGGESTION}:{year}-{week}", instance=moment.instance,
        epoch=0, at=moment.at, reason=str(better), idle=better.after, saved_time=better.saved,
        hourly=moment.market.hourly,
    )  # fmt: skip


def memory_of(text: str) -> Memory:
    """What was remembered; nothing where another version wrote it in a way that can't be read."""
    if not text:
        return Memory()
    try:
        return msgspec.json.decode(text, type=Memory)
    except msgspec.MsgspecError as error:
        log.error("what the idle watch remembered can't be read; it begins anew", reason=str(error))
        return Memory()
