"""The idle watch: looks, lets the policy decide, keeps what it decided with what follows from it, and then acts.

Everything is in tables: memory, orders, alerts and their deliveries change in one transaction, so a tick that is
missed, repeated or cut short is harmless. Of several gateways one has its turn.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import msgspec
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from bot.door import Door
from bot.money import budget
from bot.money.accounts import Terms
from bot.money.hands import Hands
from bot.money.instance import CallFailed, Cloud, View
from bot.money.learning import Estimate, Gap, best_limit
from bot.money.market import Markets
from bot.money.notice import Notice
from bot.money.notices import CAN_WAIT, Moment, notices
from bot.money.outlook import Outlook, ledger_state, memory_of, shut_because, suggestion
from bot.money.policy import decide
from bot.money.sensors import Sensor, look_all
from bot.money.situation import (
    UP,
    Decision,
    Memory,
    Rules,
    State,
)
from bot.money.verdict import look
from bot.patience import persistently
from storage import ledger, money, orders, outbox, watches
from storage.database import Database
from storage.errors import ClaimLost, StorageError
from storage.outbox import NewDelivery
from storage.timeline import Segment
from storage.watches import Spell, Turn

log = structlog.get_logger()

TICK = 20.0  # seconds
HURRIED = 3.0  # between ticks while the instance is on its way somewhere
LEASE = timedelta(seconds=90)
PARTING = 1.0  # seconds
PATIENCE = 20.0  # seconds that the cloud may take to say how the instance is
LEARN_FROM = timedelta(days=60)
CALM = (*(state for state in UP if state not in (State.DRAINING, State.SAVING)), State.STOPPED, State.BLOCKED)


@dataclass(frozen=True, slots=True)
class Work:
    """The service's own work. `flush` returns once nothing more is to be sent."""

    generating: Callable[[], int]
    waiting: Callable[[], Awaitable[int]]
    ready: Callable[[], bool]
    flush: Callable[[], Awaitable[None]]
    wake: Callable[[], None]  # there are new deliveries, or the door is open


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched. `cloud`: None where nothing can be asked of one. `local`: the service runs on it.

    `booted`: since when it has been up, where the service can see that itself.
    """

    instance: str
    cloud: Cloud | None
    local: bool
    sensors: Sequence[Sensor]
    booted: datetime | None = None


@dataclass(slots=True)
class _Own:
    """What this process remembers, and no other needs."""

    first: bool = True
    gaps: list[Gap] = field(default_factory=list)
    gaps_read: bool = False
    view_error: str = ""
    budget_looked: datetime | None = None


class Watch:
    """One a process. `announce`: the deliveries that carry a notice to the operators."""

    def __init__(self, db: Database, subject: Subject, work: Work, *, owner: str, rules: Rules, terms: Terms,
                 door: Door, announce: Callable[[Notice], list[NewDelivery]]) -> None:  # fmt: skip
        self._db = db
        self._subject = subject
        self._work = work
        self._owner = owner
        self._rules = rules
        self._terms = terms
        self._door = door
        self._announce = announce
        self._markets = Markets(db, subject.instance, subject.cloud, terms)
        self._hands = Hands(subject.cloud, rules, local=subject.local, flush=work.flush)
        self._own = _Own()
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Looks at once: an operator has asked for something."""
        self._hurry.set()

    async def run(self) -> None:
        """Ticks until it is cancelled."""
        scheduler = AsyncIOScheduler(timezone="UTC")
        every = min(TICK, self._rules.after.total_seconds() / 4)
        job = scheduler.add_job(
            self.tick, "interval", seconds=every, coalesce=True, max_instances=1, misfire_grace_time=None,
            next_run_time=now(), id="idle",
        )  # fmt: skip
        scheduler.start()
        try:
            while True:
                await self._hurry.wait()
                self._hurry.clear()
                job.modify(next_run_time=now())
        finally:
            scheduler.shutdown(wait=False)
            await self._give_up_turn()

    async def _give_up_turn(self) -> None:
        """Lets another gateway act at once. Where that can't be written, it acts when the lease is over."""
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(PARTING), self._db.write() as session:
                await watches.give_up_turn(session, self._subject.instance, self._owner)

    async def tick(self) -> None:
        """One look, and what follows from it."""
        try:
            await self._tick(now())
        except asyncio.CancelledError:  # the scheduler is shut down, and would log this as a failure
            return
        except ClaimLost:
            log.info("another gateway has taken over the idle watch")
        except StorageError as error:
            log.error("the idle watch can't reach the database; trying again", reason=str(error))

    async def _tick(self, at: datetime) -> None:
        async with self._db.write() as session:
            turn = await watches.take_turn(session, self._subject.instance, self._owner, at, LEASE)
        if turn is None:
            return await self._follow()
        outlook = await self._look(turn, at)
        decision = decide(outlook.before, outlook.situation, self._rules)
        await persistently(partial(self._keep, turn, outlook, decision), "a decision")
        self._own.first, self._hands.failed = False, ""
        self._obey(decision.memory)
        await self._hands.act(decision, at)
        await self._hands.guard(outlook.view, outlook.signals)
        if decision.memory.state not in CALM or decision.memory.trying:
            asyncio.get_running_loop().call_later(HURRIED, self.hurry)
        return None

    async def _follow(self) -> None:
        """It is another gateway's turn; what it has decided holds here too."""
        async with self._db.read() as session:
            decided = await watches.decided(session, self._subject.instance)
        if decided:
            self._obey(memory_of(decided.memory))

    # What is known

    async def _view(self) -> View:
        """Where the service runs on the instance, it sees that that runs."""
        here = self._subject
        seen = View(None)
        try:
            if here.cloud:
                async with asyncio.timeout(PATIENCE):
                    seen = await here.cloud.view()
            self._own.view_error = ""
        except (CallFailed, TimeoutError) as error:
            reason = str(error) or "no answer"
            if reason != self._own.view_error:
                log.warning("the cloud does not say how the instance is", reason=reason)
            self._own.view_error = reason
        if here.local:
            status = seen.status or "Running"
            return replace(seen, status=status, up_since=seen.up_since or here.booted)
        return seen

    async def _look(self, turn: Turn, at: datetime) -> Outlook:
        own, before = self._own, memory_of(turn.memory)
        view = await self._view()
        await self._markets.refresh(view.spec, at, soon=own.first)
        async with self._db.read() as session:
            asked = await orders.waiting(session, self._subject.instance)
        untold = own.first and before.trying is not None and before.next_try_at is None
        return Outlook(
            at, before, view, self._markets.now, await look_all(self._subject.sensors, at), asked,
            await self._estimate(before, at), waiting=await self._work.waiting(), generating=self._work.generating(),
            ready=self._work.ready(), failed="the service was restarted meanwhile" if untold else self._hands.failed,
        )  # fmt: skip

    async def _estimate(self, memory: Memory, at: datetime) -> Estimate | None:
        """After how much idleness a stop pays, in the present gap."""
        if memory.unused_since is None or self._rules.action != "stop":
            return None
        this = Gap(memory.unused_since, max(at - memory.unused_since, timedelta()), after=memory.used_by)
        return best_limit(
            await self._gaps(at), this, zone=self._terms.zone, wake=self._rules.wake_takes, floor=self._rules.floor,
            ceiling=self._rules.after + self._rules.warn_for,
        )  # fmt: skip

    async def _gaps(self, at: datetime) -> list[Gap]:
        if not self._own.gaps_read:
            async with self._db.read() as session:
                spells = await watches.spells(session, self._subject.instance, at - LEARN_FROM)
            self._own.gaps = [
                Gap(one.started_at, one.ended_at - one.started_at, one.ended_by, one.after) for one in spells
            ]
            self._own.gaps_read = True
        return self._own.gaps

    # What is kept

    async def _keep(self, turn: Turn, outlook: Outlook, decision: Decision) -> None:
        instance, at = self._subject.instance, outlook.at
        remaining = outlook.estimate.remaining if outlook.estimate else None
        moment = Moment(at, instance, self._rules, self._terms, outlook.market, outlook.view, self._subject.local,
                        remaining)  # fmt: skip
        memory = msgspec.json.encode(decision.memory).decode()
        async with self._db.write() as session:
            await watches.decide(session, turn, memory, decision.reason, at)
            await orders.take(session, outlook.asked, at)
            await money.observe(session, self._segment(decision.memory, outlook), self._rules.gap)
            if gap := decision.ended:
                await watches.note_spell(session, instance, Spell(gap.start, gap.end, gap.after, gap.ended_by))
            muted = await orders.muted_until(session, instance)
            budgets = await self._of_budgets(session, moment)
            for notice in (*notices(outlook.before, decision, moment), *budgets):
                if not (muted and at < muted and notice.kind in CAN_WAIT):
                    await self._tell(session, notice)
        self._own.gaps_read = self._own.gaps_read and not decision.ended
        self._work.wake()

    async def _tell(self, session: AsyncSession, notice: Notice) -> None:
        """Once for each key, whoever notices it, and however often."""
        if await ledger.raise_alert(session, notice.kind, notice.key, notice.reason, notice.at):
            await outbox.add(session, self._announce(notice), notice.at)

    async def _of_budgets(self, session: AsyncSession, moment: Moment) -> list[Notice]:
        account, looked = moment.market.account, self._own.budget_looked
        if account is None or (looked and timedelta() <= moment.at - looked < timedelta(minutes=1)):
            return []
        self._own.budget_looked = moment.at
        raised = await money.raised(session, budget.KINDS)
        due = budget.due(account, self._terms, moment.at, instance=self._subject.instance,
                         hourly=moment.market.hourly, raised=raised, stoppable=self._rules.may_stop)  # fmt: skip
        better = suggestion(self._own.gaps, moment)
        return [*due, better] if better else due

    def _segment(self, memory: Memory, outlook: Outlook) -> Segment:
        """How the instance's time since the last tick goes into the ledger."""
        idle = look(outlook.situation, self._rules).busy is False
        state = ledger_state(memory.state, outlook.view.status, idle=idle)
        since = memory.idle_since if state == "idle" and memory.idle_since else memory.last_tick_at or outlook.at
        return Segment(self._subject.instance, state, min(since, outlook.at), outlook.at, price=outlook.market.price)

    # What is done

    def _obey(self, memory: Memory) -> None:
        """Opens or shuts the door, by what the instance's state is."""
        reason = shut_because(memory)
        if reason:
            self._door.shut(reason)
        elif not self._door.open:
            self._door.unlock()
            self._work.wake()
