"""Long polling. An update is committed to the inbox before the next call confirms it to Telegram.

The library's own poller confirms what lies in a queue in memory; a crash then loses it. Here nothing needs to be
remembered over a restart: what was not confirmed comes again, and what is known already is dropped.
"""

import msgspec
import structlog
import telegram

from bot.clock import now
from bot.config import Telegram
from bot.conversation import Turns
from bot.delivery import Deliveries
from bot.telegram.commands import Command, Strangers, answer_to, command_of, wish_of
from bot.telegram.desk import Desk
from bot.telegram.send import Payload, planned
from bot.telegram.stream import Origin
from bot.telegram.texts import Texts, texts_for
from storage import conversations, inbox, people
from storage.database import Database
from storage.inbox import Incoming

log = structlog.get_logger()

SOURCE = "telegram"


class Intake:
    """Stores updates: questions for the turns, commands with their effect and reply, what operators do for the desk."""

    def __init__(self, settings: Telegram, db: Database, turns: Turns, deliveries: Deliveries, desk: Desk, *,
                 demo: bool) -> None:  # fmt: skip
        self._settings = settings
        self._db = db
        self._turns = turns
        self._deliveries = deliveries
        self._desk = desk
        self._demo = demo
        self._strangers = Strangers()
        self._bot_id = settings.token.partition(":")[0]
        self._stopped = ("", False)  # by the last /stop: its update, and whether there was an answer to end

    async def store(self, update: telegram.Update) -> None:
        """Commits what an update brings. Doing so twice changes nothing."""
        if update.callback_query:
            return await self._desk.pressed(update.update_id, update.callback_query)
        message = update.message
        if message is None or message.from_user is None or message.chat.type != "private":
            log.debug("an update is not for this bot", update=update.update_id)
            return None
        user = message.from_user
        language = self._settings.language or user.language_code or ""
        texts = texts_for(language)
        incoming = Incoming(
            source=SOURCE,
            external_id=f"{self._bot_id}:{_name_of(update, message)}",
            conversation_key=f"telegram:{message.chat.id}",
            text=message.text or "",
            meta=msgspec.json.encode(Origin(message.chat.id, language)).decode(),
        )
        if not await self._is_allowed(user.id):
            if self._strangers.may_be_told(user.id):
                log.warning("a stranger was refused", user=user.id)
                await self._reply(incoming, message.chat.id, texts.stranger.format(id=user.id))
        elif self._desk.serves(user.id) and (wish := wish_of(message)):
            await self._desk.carry_out(update.update_id, user, *wish)
        elif command := command_of(message):
            await self._carry_out(command, incoming, message.chat.id, texts, operator=self._desk.serves(user.id))
        else:
            await self._turns.accept(incoming)
        return None

    async def _is_allowed(self, user_id: int) -> bool:
        if user_id in self._settings.admins:
            return True
        async with self._db.read() as session:
            said = await people.telegram_user(session, user_id)
        return user_id in self._settings.allowed if said is None else said

    async def _carry_out(self, command: Command, incoming: Incoming, chat_id: int, texts: Texts, *,
                         operator: bool) -> None:  # fmt: skip
        stopped = command is Command.STOP and await self._stop(incoming)
        text = answer_to(command, texts, demo=self._demo, stopped=stopped, operator=operator)
        await self._reply(incoming, chat_id, text, forget=command is Command.NEW)

    async def _stop(self, incoming: Incoming) -> bool:
        """Ends the answer, once for each update: where one comes again, the answer may be another by then."""
        update, stopped = self._stopped
        if update != incoming.external_id:
            stopped = not await self._is_known(incoming) and self._turns.stop(incoming.conversation_key)
            self._stopped = incoming.external_id, stopped
        return stopped

    async def _is_known(self, incoming: Incoming) -> bool:
        async with self._db.read() as session:
            return await inbox.is_known(session, incoming)

    async def _reply(self, incoming: Incoming, chat_id: int, text: str, *, forget: bool = False) -> None:
        """The effect and the reply in one transaction, once for each update."""
        async with self._db.write() as session:
            created = await inbox.record(session, incoming, [planned(Payload(chat_id, text))], now())
            if created and forget:
                await conversations.close_conversation(session, incoming.conversation_key, now())
        self._deliveries.wake()


def _name_of(update: telegram.Update, message: telegram.Message) -> str:
    """What an update is stored under: its number, but the pictures of an album are one message that gets one reply."""
    album = message.media_group_id
    return f"{message.chat.id}:album:{album}" if album else str(update.update_id)
