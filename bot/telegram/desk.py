"""The operator's side: presses of buttons and the commands that only admins have, each with its effect once."""

from collections.abc import Sequence

import structlog
import telegram
from sqlalchemy.ext.asyncio import AsyncSession
from telegram.error import TelegramError

from bot.clock import now
from bot.config import Telegram
from bot.delivery import Deliveries
from bot.telegram.commands import Wish
from bot.telegram.operator import Operator, Pressed
from bot.telegram.parts import LIMIT, preview, units
from bot.telegram.send import Chart, Payload, planned, rows
from bot.telegram.texts import texts_for
from storage import ledger, outbox
from storage.database import Database
from storage.outbox import NewDelivery

log = structlog.get_logger()

ASKED = "telegram"  # the kind of alert that notes what an operator was answered
TOAST = 200  # characters
ANSWERING = 5.0  # seconds that a toast may take: the next updates wait for it
NAME = 40  # characters of who pressed


class Desk:
    """Nothing here is a message for the model, so nothing of it is in the inbox: it would count as use of the GPU.

    What was answered is noted with the alerts, in the same transaction as its effect.
    """

    def __init__(self, bot: telegram.Bot, settings: Telegram, db: Database, deliveries: Deliveries,
                 operator: Operator | None) -> None:  # fmt: skip
        self._bot = bot
        self._settings = settings
        self._db = db
        self._deliveries = deliveries
        self._operator = operator
        self._bot_id = settings.token.partition(":")[0]

    def serves(self, user_id: int) -> bool:
        """Whether this is an admin, and there is something to be looked after."""
        return self._operator is not None and user_id in self._settings.admins

    async def pressed(self, number: int, query: telegram.CallbackQuery) -> None:
        """Carries out what the button of an update stands for, and says so."""
        user, message = query.from_user, query.message
        texts = texts_for(self._language(user))
        if user.id not in self._settings.admins:
            log.warning("a stranger has pressed a button", user=user.id)
            toast = texts.admins_only
        elif message is None or message.chat.id != user.id:
            toast = texts.not_yours
        elif self._operator is None or not query.data:
            toast = texts.dead_button
        else:
            toast = await self._press(self._operator, number, query, message) or texts.noted
        await self._answer(query, toast)

    async def _press(self, operator: Operator, number: int, query: telegram.CallbackQuery,
                     message: telegram.MaybeInaccessibleMessage) -> str | None:  # fmt: skip
        """The effect and the edit in one transaction; returns the toast, None where it was done before."""
        data = query.data or ""
        async with self._db.write() as session:
            if not await self._is_new(session, number, data):
                return None
            pressed = await operator.press(
                session, data, by=_name(query.from_user), language=self._language(query.from_user),
                key=f"telegram:{self._bot_id}:{message.chat.id}:{message.message_id}",
            )  # fmt: skip
            await outbox.add(session, edits(message, pressed), now())
        operator.stored()
        self._deliveries.wake()
        return pressed.toast

    async def _answer(self, query: telegram.CallbackQuery, toast: str) -> None:
        """Telegram forgets a press soon; nothing depends on this."""
        try:
            await self._bot.answer_callback_query(
                query.id, toast[:TOAST], read_timeout=ANSWERING, write_timeout=ANSWERING, connect_timeout=ANSWERING
            )
        except TelegramError as error:
            log.info("a press could not be answered", reason=error.message)

    async def carry_out(self, number: int, user: telegram.User, wish: Wish, argument: str) -> None:
        """Does what an admin asks for and answers in their chat, once for each update."""
        assert self._operator
        language, chat_id = self._language(user), user.id
        said = await self._operator.status(language) if wish is Wish.STATUS else None
        who = {"by": _name(user), "key": f"telegram:{self._bot_id}:{number}", "language": language}
        async with self._db.write() as session:
            if not await self._is_new(session, number, wish.value):
                return
            if said:
                payload = Payload(chat_id, said.text, buttons=rows(said.keyboard))
            elif wish is Wish.HOLD:
                payload = Payload(chat_id, await self._operator.hold(session, argument, **who))
            elif wish is Wish.RELEASE:
                payload = Payload(chat_id, await self._operator.release(session, **who))
            else:
                payload = Payload(chat_id, "", chart=Chart(language, now()))
            await outbox.add(session, [planned(payload)], now())
        self._operator.stored()
        self._deliveries.wake()

    async def _is_new(self, session: AsyncSession, number: int, what: str) -> bool:
        return await ledger.raise_alert(session, ASKED, f"{self._bot_id}:{number}", what, now())

    def _language(self, user: telegram.User) -> str:
        return self._settings.language or user.language_code or ""


def _name(user: telegram.User) -> str:
    return " ".join(user.full_name.split())[:NAME]


def edits(message: telegram.MaybeInaccessibleMessage, pressed: Pressed) -> Sequence[NewDelivery]:
    """What becomes of a message whose button was pressed. Telegram does not give the text of an old one again: what is
    to be added to that comes as a message of its own."""
    chat_id, buttons = message.chat.id, rows(pressed.keyboard or ())
    buttons_alone = planned(Payload(chat_id, "", edit=message.message_id, buttons=buttons))
    if not pressed.line:
        return [] if pressed.keyboard is None else [buttons_alone]
    text = message.text if isinstance(message, telegram.Message) else None
    if not text:
        return [buttons_alone, planned(Payload(chat_id, pressed.line))]
    whole = f"{preview(text, LIMIT - units(pressed.line) - 2)}\n\n{pressed.line}"
    return [planned(Payload(chat_id, whole, edit=message.message_id, buttons=buttons))]
