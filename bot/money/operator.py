"""What operators ask for, by buttons and by commands: orders for the watch, and a look at the instance and its cost."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bot.clock import now
from bot.money.links import IDLE
from bot.money.notice import Kind, Notice
from bot.money.operator_buttons import Buttons, Rows
from bot.money.operator_ruling import DOWN, STARTING, Asked, Pressed, Ruling, Rulings, hold_end
from bot.money.operator_status import status
from bot.money.operator_words import words_for
from bot.money.situation import Memory, Rules, State, Trouble
from storage import orders, watches
from storage.database import Database
from storage.errors import StorageError
from storage.orders import Order
from storage.watches import Decided

log = structlog.get_logger()

ASLEEP: frozenset[str] = frozenset({Kind.STOPPED, Trouble.WAKE_FAILED, Trouble.WAKE_BLOCKED})  # what offers a wake


@dataclass(frozen=True, slots=True)
class CostAnswer:
    """`caption`: a few lines for below the picture. `today`: one line, what today has cost so far.

    `draw`: the picture, a PNG. That takes its time, so it must not be done in the event loop's thread.
    """

    caption: str
    today: str
    draw: Callable[[], Awaitable[bytes]]


Cost = Callable[[str, datetime], Awaitable[CostAnswer]]  # in a language, as of a time


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    keyboard: Rows = ()


class Operator:
    """Of one instance. What it is asked for is stored in the asker's transaction; after that, `stored` is called."""

    def __init__(self, db: Database, instance: str, rules: Rules, zone: ZoneInfo, cost: Cost, *,
                 stored: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        self._db = db
        self._instance = instance
        self._rules = rules
        self._zone = zone
        self._buttons = Buttons(instance, zone)
        self._rulings = Rulings(self._buttons, rules)
        self.cost = cost
        self.stored = stored

    def keyboard(self, notice: Notice, language: str) -> Rows:
        """What is offered below a notice: a stop where one would work, and for an idle instance holds and silence.

        `language`: of the labels; both languages where it is empty.
        """
        if notice.kind in ASLEEP:
            return self._buttons.wake(notice.epoch, language)
        idle = notice.kind in IDLE
        return self._buttons.choices(notice.epoch, language, notice.at, stop=notice.stoppable, hold=idle)

    async def press(self, session: AsyncSession, data: str, *, by: str, key: str, language: str) -> Pressed:
        """What the button with this data leads to. `key`: of the message that it belongs to."""
        words, press = words_for(language), self._buttons.press(data)
        if press is None:
            return Pressed(words.dead, keyboard=())
        asked = _asked(await watches.decided(session, self._instance), by, language)
        if asked is None:
            return Pressed(words.unknown)
        return await self._settled(session, self._rulings.press(press, asked), asked, f"{key}:{data}")

    async def hold(self, session: AsyncSession, until: str, *, by: str, key: str, language: str) -> str:
        words, asked = words_for(language), _asked(await watches.decided(session, self._instance), by, language)
        if asked is None:
            return words.unknown
        end = hold_end(until, asked.at, self._zone)
        if end is None:
            return words.hold_usage
        return (await self._settled(session, self._rulings.hold(end, asked), asked, key)).toast

    async def release(self, session: AsyncSession, *, by: str, key: str, language: str) -> str:
        await orders.place(session, Order(key, self._instance, "release", by), now())
        return words_for(language).released

    async def status(self, language: str) -> Said:
        async with self._db.read() as session:
            decided = await watches.decided(session, self._instance)
        asked = _asked(decided, "", language)
        if decided is None or asked is None:
            return Said(words_for(language).unknown)
        today = await self._today(asked)
        return Said(status(asked, decided.at, self._rules, self._zone, today), self._offered(asked))

    async def _today(self, asked: Asked) -> str:
        try:
            return (await self.cost(asked.language, asked.at)).today
        except StorageError:
            raise
        except Exception:  # boundary: how the instance is must be told whatever is wrong with its cost
            log.exception("today's cost can't be told")
            return asked.words.no_cost

    def _offered(self, asked: Asked) -> Rows:
        memory = asked.memory
        if memory.state in DOWN:
            return self._buttons.wake(memory.epoch, asked.language)
        if memory.state in STARTING or memory.state is State.STOPPING:
            return ()
        return self._buttons.choices(memory.epoch, asked.language, asked.at, stop=self._rules.may_stop)

    async def _settled(self, session: AsyncSession, ruling: Ruling, asked: Asked, key: str) -> Pressed:
        """Places the order. Where it was placed before, a second press leads to nothing more."""
        if ruling.kind is None:
            return ruling.pressed
        order = Order(key, self._instance, ruling.kind, asked.by, ruling.until)
        if not await orders.place(session, order, asked.at):
            return Pressed(asked.words.noted)
        log.info("an operator has given an order", order=order.kind, by=order.placed_by, until=order.until)
        return ruling.pressed


def _asked(decided: Decided | None, by: str, language: str) -> Asked | None:
    """None where nothing is known of the instance."""
    if decided is None:
        return None
    try:
        memory = msgspec.json.decode(decided.memory, type=Memory)
    except msgspec.MsgspecError as error:  # another version's
        log.error("what the watch has noted can't be read", reason=str(error))
        return None
    return Asked(memory, decided.reason, language, by, now())
