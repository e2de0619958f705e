"""The bot as a whole: its connection to Telegram, the polling loop, and how it is."""

import asyncio
import logging
import time
import warnings
from types import TracebackType
from typing import Self

import msgspec
import structlog
import telegram
from telegram.error import Conflict, InvalidToken, NetworkError, RetryAfter, TelegramError
from telegram.request import HTTPXRequest
from telegram.warnings import PTBUserWarning

from bot.config import Telegram
from bot.conversation import Turns
from bot.delivery import Deliveries
from bot.errors import ProxyInvalid, TelegramRefused
from bot.telegram.gate import FloodGate, seconds_of
from bot.telegram.intake import SOURCE, Intake
from bot.telegram.send import CHANNEL, Payload, TelegramSender, planned
from bot.telegram.stream import LiveAnswers
from bot.telegram.texts import CHINESE, ENGLISH
from storage.database import Database
from storage.errors import StorageError
from storage.outbox import NewDelivery

log = structlog.get_logger()

POLL_SECONDS = 25
LONGEST_PAUSE = 30.0
NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError)  # what the library raises on odd updates
STALE = 90.0  # seconds without a successful poll after which the connection is made anew
OTHER_POLLER = "another process polls with this token: stop it, or use another bot"


class State(msgspec.Struct, frozen=True):
    """How the polling goes."""

    ok: bool
    state: str
    reason: str = ""


class TelegramAdapter:
    """Use as `async with`; `run` polls until it is cancelled."""

    def __init__(self, settings: Telegram, db: Database, turns: Turns, deliveries: Deliveries, *, demo: bool) -> None:
        for name in ("httpx", "httpcore"):  # they log addresses, and the token is part of those
            logging.getLogger(name).setLevel(logging.WARNING)
        proxy = settings.proxy or None
        try:
            self._calls = HTTPXRequest(connection_pool_size=32, proxy=proxy, read_timeout=15, connect_timeout=10)
            self._polls = HTTPXRequest(connection_pool_size=1, proxy=proxy, read_timeout=POLL_SECONDS + 10)
        except (ValueError, RuntimeError):
            raise ProxyInvalid from None
        self._bot = telegram.Bot(
            settings.token, base_url=settings.base_url, base_file_url=settings.base_file_url,
            request=self._calls, get_updates_request=self._polls,
        )  # fmt: skip
        self._admins = settings.admins
        self._intake = Intake(settings, db, turns, deliveries, demo=demo)
        gate = FloodGate()
        turns.channels[SOURCE] = LiveAnswers(self._bot, db, gate)
        deliveries.senders[CHANNEL] = TelegramSender(self._bot, gate)
        self._last_poll = time.monotonic()
        self.username = ""
        self.state = State(ok=False, state="connecting")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        await self._calls.shutdown()
        await self._polls.shutdown()

    def announce(self, text: str) -> list[NewDelivery]:
        """The deliveries that tell every admin."""
        return [planned(Payload(admin, text)) for admin in self._admins]

    async def run(self) -> None:
        """Polls. A connection that fails is tried again for ever; a token that is refused ends the service."""
        offset, failures = None, 0
        while True:
            try:
                if not self.username:
                    await self._introduce()
                offset = await self._poll(offset)
                failures = 0
            except InvalidToken:
                raise TelegramRefused from None
            except (TelegramError, StorageError) as error:
                failures += 1
                await asyncio.sleep(await self._pause_after(error, failures))

    async def _introduce(self) -> None:
        me = await self._bot.get_me()
        await self._bot.delete_webhook()  # polling and a webhook exclude each other; what waits is kept
        self.username = me.username or me.first_name
        for texts, language in ((ENGLISH, ""), (CHINESE, "zh")):
            try:
                await self._bot.set_my_commands(list(texts.menu.items()), language_code=language)
            except TelegramError as error:
                log.warning("Telegram does not take the list of commands", reason=error.message)
        self.state = State(ok=True, state="polling")
        log.info("connected to Telegram", bot=self.username)

    async def _poll(self, offset: int | None) -> int | None:
        """One call; what it brings is committed before the offset that is returned confirms it."""
        last = None
        try:
            updates = await self._bot.get_updates(offset=offset, timeout=POLL_SECONDS, allowed_updates=["message"])
        except NOT_UNDERSTOOD:
            updates, last = await self._understood(offset)
        self._last_poll = time.monotonic()
        self.state = State(ok=True, state="polling")
        for update in updates:
            await self._intake.store(update)
            offset = update.update_id + 1
        return last or offset

    async def _understood(self, offset: int | None) -> tuple[tuple[telegram.Update, ...], int]:
        """The updates that the library can read, and the offset behind all: one that it can't holds up no other."""
        call = {"offset": offset or 0, "allowed_updates": ["message"]}
        with warnings.catch_warnings():  # the library would rather parse them all itself
            warnings.simplefilter("ignore", PTBUserWarning)
            raws = await self._bot.do_api_request("getUpdates", call)
        updates = []
        for raw in raws:
            try:
                updates.append(telegram.Update.de_json(raw, self._bot))
            except NOT_UNDERSTOOD as error:
                log.error("an update can't be understood", update=raw["update_id"], reason=repr(error))
        return tuple(updates), max(raw["update_id"] for raw in raws) + 1

    async def _pause_after(self, error: TelegramError | StorageError, failures: int) -> float:
        """Says what is wrong, and returns how long to wait before the next try."""
        pause = min(LONGEST_PAUSE, 2.0 ** (failures - 1))
        reason = OTHER_POLLER if isinstance(error, Conflict) else str(error)
        self.state = State(ok=False, state="trying again", reason=reason)
        log.warning("no messages from Telegram", reason=reason, next_try_in=pause)
        if isinstance(error, NetworkError) and time.monotonic() - self._last_poll > STALE:
            await self._polls.shutdown()
            await self._polls.initialize()
            self._last_poll = time.monotonic()
        return seconds_of(error) if isinstance(error, RetryAfter) else pause
