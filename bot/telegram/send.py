"""Sending for good, from the outbox. What may have arrived is not sent again."""

import asyncio
from datetime import datetime

import httpx
import msgspec
import structlog
import telegram
from telegram import InlineKeyboardButton, InlineKeyboardMarkup
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken, RetryAfter, TelegramError

from bot.delivery import TryLater, Uncertain, Undeliverable
from bot.telegram.gate import FloodGate
from bot.telegram.operator import Cost, Keyboard
from bot.telegram.parts import preview
from bot.telegram.texts import texts_for
from storage.errors import StorageError
from storage.outbox import Delivery, NewDelivery

log = structlog.get_logger()

CHANNEL = "telegram"
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
CAPTION = 1024  # UTF-16 units below a picture
DRAWING = 30.0  # seconds that a picture may take


class Button(msgspec.Struct, frozen=True):
    """One button below a message. A press brings `data`, 1 to 64 bytes."""

    label: str
    data: str


class Chart(msgspec.Struct, frozen=True):
    """The picture of what the instance cost up to a moment. It is drawn when it is sent."""

    language: str
    at: datetime


class Payload(msgspec.Struct, frozen=True):
    """A text for a chat, or a chart, with rows of buttons.

    `edit`: the message that it replaces; of one with an empty text the buttons alone.
    """

    chat_id: int
    text: str
    edit: int | None = None
    buttons: tuple[tuple[Button, ...], ...] = ()
    chart: Chart | None = None


def planned(payload: Payload) -> NewDelivery:
    """The payload as a row of the outbox; each chat is a receiver with one lane."""
    chat = str(payload.chat_id)
    return NewDelivery(CHANNEL, chat, chat, msgspec.json.encode(payload).decode())


def rows(keyboard: Keyboard) -> tuple[tuple[Button, ...], ...]:
    """The buttons of a keyboard, to be stored."""
    return tuple(tuple(Button(one.label, one.data) for one in row) for row in keyboard)


def verdict(error: TelegramError, *, repeatable: bool) -> TryLater | Uncertain | Undeliverable:
    """What a failed call means for its delivery."""
    if isinstance(error, Forbidden | BadRequest):
        return Undeliverable(f"Telegram refuses: {error.message}")
    sent = not isinstance(error, InvalidToken | ChatMigrated) and not isinstance(error.__cause__, NEVER_SENT)
    if sent and not repeatable:
        return Uncertain(f"no answer from Telegram: {error.message}")
    return TryLater(f"Telegram can't be reached: {error.message}")


class TelegramSender:
    """The outbox's way to Telegram. `cost`: what a chart shows."""

    def __init__(self, bot: telegram.Bot, gate: FloodGate, cost: Cost | None = None) -> None:
        self._bot = bot
        self._gate = gate
        self._cost = cost

    def repeatable(self, delivery: Delivery) -> bool:
        """An edit to the same text changes nothing; a message sent twice is there twice."""
        return msgspec.json.decode(delivery.payload, type=Payload).edit is not None

    async def send(self, delivery: Delivery) -> str | None:
        """Sends or edits; returns the message's id."""
        payload = msgspec.json.decode(delivery.payload, type=Payload)
        if wait := self._gate.wait(payload.chat_id):
            raise TryLater("Telegram has asked for a pause in this chat", wait)
        try:
            if payload.edit is not None and await self._edit(payload, payload.edit):
                return str(payload.edit)
            message = await self._new(payload)
        except RetryAfter as error:
            raise TryLater("Telegram asks for a pause", self._gate.close(payload.chat_id, error)) from error
        except TelegramError as error:
            raise verdict(error, repeatable=False) from error
        except (KeyError, TypeError) as error:  # what a proxy says instead of Telegram
            raise Uncertain("the answer was not Telegram's") from error
        return str(message.message_id)

    async def _new(self, payload: Payload) -> telegram.Message:
        text, picture = await self._drawn(payload.chart) if payload.chart else (payload.text, None)
        if picture:
            try:
                return await self._bot.send_photo(
                    payload.chat_id, picture, caption=preview(text, CAPTION), filename="cost.png"
                )
            except BadRequest as error:  # if it is the chat that is wrong, the text will be told so too
                log.warning("Telegram does not take the picture", reason=error.message)
        return await self._bot.send_message(payload.chat_id, text, reply_markup=_markup(payload))

    async def _drawn(self, chart: Chart) -> tuple[str, bytes | None]:
        """The caption and the picture, None where it can't be drawn."""
        text = texts_for(chart.language).no_cost
        try:
            async with asyncio.timeout(DRAWING):
                if self._cost is None:
                    return text, None
                answer = await self._cost(chart.language, chart.at)
                text = answer.caption
                return text, await answer.draw()
        except StorageError as error:
            raise TryLater(f"what it cost can't be read: {error}") from error
        except Exception:  # boundary: without its picture the text is still worth sending
            log.exception("the cost can't be shown")
            return text, None

    async def _edit(self, payload: Payload, message_id: int) -> bool:
        """False where there is no such message any more."""
        if self._gate.shown.pop((payload.chat_id, message_id), None) == payload.text:
            return True  # the live view was complete already
        try:
            await self._change(payload, message_id)
        except BadRequest as error:
            said = error.message.lower()
            if "not modified" in said:
                return True
            if "to edit not found" in said or "can't be edited" in said:
                return not payload.text
            raise
        except RetryAfter:
            raise
        except TelegramError as error:
            raise verdict(error, repeatable=True) from error
        return True

    async def _change(self, payload: Payload, message_id: int) -> None:
        chat, markup = payload.chat_id, _markup(payload)
        if payload.text:
            await self._bot.edit_message_text(payload.text, chat, message_id, reply_markup=markup)
        else:
            await self._bot.edit_message_reply_markup(chat, message_id, reply_markup=markup)


def _markup(payload: Payload) -> InlineKeyboardMarkup | None:
    if not payload.buttons:
        return None
    return InlineKeyboardMarkup(
        [[InlineKeyboardButton(one.label, callback_data=one.data) for one in row] for row in payload.buttons]
    )
