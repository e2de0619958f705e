"""The bot as a whole: the polling loop, what it does when that fails, and how it is."""

import asyncio
import time
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
import telegram
from telegram.error import Conflict, InvalidToken, NetworkError, RetryAfter, TelegramError

from bot.config import Telegram
from bot.conversation import Turns
from bot.delivery import Deliveries
from bot.errors import TelegramRefused
from bot.telegram.connection import Connection, Impostor
from bot.telegram.desk import Desk
from bot.telegram.gate import FloodGate, seconds_of
from bot.telegram.intake import SOURCE, Intake
from bot.telegram.operator import Keyboard, Operator
from bot.telegram.send import CHANNEL, Payload, TelegramSender, planned, rows
from bot.telegram.stream import LiveAnswers
from bot.telegram.texts import CHINESE, ENGLISH
from storage.database import Database
from storage.errors import StorageError
from storage.outbox import NewDelivery

log = structlog.get_logger()

POLL_SECONDS = 25
FIRST_PAUSE = 1.0  # seconds after a failure, doubled with each that follows
LONGEST_PAUSE = 30.0
STALE = 90.0  # seconds without a successful poll after which the connection is made anew
NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError)  # what the library raises on odd objects
OTHER_POLLER = "another process polls with this token: stop it, or use another bot"


class State(msgspec.Struct, frozen=True):
    """How the polling goes."""

    ok: bool
    state: str
    reason: str = ""
    polled_at: float | None = None  # the last successful poll, on the monotonic clock

    @property
    def age(self) -> float | None:
        """Seconds since the last successful poll: up to half a minute where nobody writes. None before the first."""
        return None if self.polled_at is None else time.monotonic() - self.polled_at


class TelegramAdapter:
    """Use as `async with`; `run` polls until it is cancelled."""

    def __init__(self, settings: Telegram, db: Database, turns: Turns, deliveries: Deliveries, *, demo: bool,
                 operator: Operator | None = None) -> None:  # fmt: skip
        """`operator`: what admins' buttons and commands act on."""
        self._connection = Connection(settings)
        self._bot = self._connection.bot
        self._admins = settings.admins
        self._operated = operator is not None
        desk = Desk(self._bot, settings, db, deliveries, operator)
        self._intake = Intake(settings, db, turns, deliveries, desk, demo=demo)
        gate = FloodGate()
        turns.channels[SOURCE] = LiveAnswers(self._bot, db, gate)
        deliveries.senders[CHANNEL] = TelegramSender(self._bot, gate, operator.cost if operator else None)
        self._offset: int | None = None  # the update that is wanted next
        self._renewed = time.monotonic()
        self.username = ""
        self.state = State(ok=False, state="connecting")

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await self._connection.__aexit__(kind, error, trace)

    def announce(self, text: str, buttons: Keyboard = ()) -> list[NewDelivery]:
        """The deliveries that tell every admin, with rows of buttons below the text."""
        return [planned(Payload(admin, text, buttons=rows(buttons))) for admin in self._admins]

    async def run(self) -> None:
        """Polls. A connection that fails is tried again for ever; a token that is refused ends the service."""
        pause = FIRST_PAUSE
        while True:
            try:
                if not self.username:
                    await self._introduce()
                await self._poll()
                pause = FIRST_PAUSE
            except InvalidToken:
                raise TelegramRefused from None
            except (TelegramError, StorageError) as error:
                wait = seconds_of(error) if isinstance(error, RetryAfter) else pause
                await self._failed(error, wait)
                await asyncio.sleep(wait)
                pause = min(LONGEST_PAUSE, 2 * pause)

    async def _introduce(self) -> None:
        try:
            me = await self._bot.get_me()
        except NOT_UNDERSTOOD:
            raise Impostor("this is no bot") from None
        await self._bot.delete_webhook()  # polling and a webhook exclude each other; what waits is kept
        self.username = me.username or me.first_name
        for texts, language in ((ENGLISH, ""), (CHINESE, "zh")):
            await self._offer(texts.menu, language)
            for admin in self._admins if self._operated else ():
                await self._offer(texts.menu | texts.operator_menu, language, telegram.BotCommandScopeChat(admin))
        log.info("connected to Telegram", bot=self.username)

    async def _offer(self, menu: dict[str, str], language: str,
                     scope: telegram.BotCommandScope | None = None) -> None:  # fmt: skip
        try:
            await self._bot.set_my_commands(list(menu.items()), scope, language)
        except TelegramError as error:  # also where an admin has never written to the bot
            log.warning("Telegram does not take the list of commands", reason=error.message)

    async def _poll(self) -> None:
        """One call. The offset passes each update as soon as that is committed; the next call confirms them."""
        updates = await self._connection.updates(self._offset, self._patience())
        self.state = State(ok=True, state="polling", polled_at=time.monotonic())
        for number, raw in updates:
            await self._take(number, raw)
            self._offset = number + 1

    def _patience(self) -> int:
        """Seconds that the next poll may wait. After a failure none, so that its end shows at once; but that nobody
        else polls is known only from a poll that was left to wait."""
        return POLL_SECONDS if self.state.ok or self.state.reason == OTHER_POLLER else 0

    async def _take(self, number: int, raw: dict[str, Any]) -> None:
        """Stores an update; one that the library can't read holds up no other."""
        try:
            update = telegram.Update.de_json(raw, self._bot)
        except NOT_UNDERSTOOD as error:
            log.error("an update can't be understood", update=number, reason=repr(error))
            return
        await self._intake.store(update)

    async def _failed(self, error: TelegramError | StorageError, wait: float) -> None:
        """Says what is wrong, and mends what can be mended from here."""
        reason = OTHER_POLLER if isinstance(error, Conflict) else str(error)
        self.state = State(ok=False, state="trying again", reason=reason, polled_at=self.state.polled_at)
        log.warning("no messages from Telegram", reason=reason, next_try_in=wait)
        lively = max(self._renewed, self.state.polled_at or 0.0)
        if isinstance(error, NetworkError) and time.monotonic() - lively > STALE:
            await self._connection.renew_polling()
            self._renewed = time.monotonic()
