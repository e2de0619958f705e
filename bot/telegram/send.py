"""Sending for good, from the outbox. What may have arrived is not sent again."""

import httpx
import msgspec
import telegram
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken, RetryAfter, TelegramError

from bot.delivery import TryLater, Uncertain, Undeliverable
from bot.telegram.gate import FloodGate
from storage.outbox import Delivery, NewDelivery

CHANNEL = "telegram"
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class Payload(msgspec.Struct, frozen=True):
    """A text for a chat; `edit` is the message that it replaces."""

    chat_id: int
    text: str
    edit: int | None = None


def planned(payload: Payload) -> NewDelivery:
    """The payload as a row of the outbox; each chat is a receiver with one lane."""
    chat = str(payload.chat_id)
    return NewDelivery(CHANNEL, chat, chat, msgspec.json.encode(payload).decode())


def verdict(error: TelegramError, *, repeatable: bool) -> TryLater | Uncertain | Undeliverable:
    """What a failed call means for its delivery."""
    if isinstance(error, Forbidden | BadRequest):
        return Undeliverable(f"Telegram refuses: {error.message}")
    sent = not isinstance(error, InvalidToken | ChatMigrated) and not isinstance(error.__cause__, NEVER_SENT)
    if sent and not repeatable:
        return Uncertain(f"no answer from Telegram: {error.message}")
    return TryLater(f"Telegram can't be reached: {error.message}")


class TelegramSender:
    """The outbox's way to Telegram."""

    def __init__(self, bot: telegram.Bot, gate: FloodGate) -> None:
        self._bot = bot
        self._gate = gate

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
            message = await self._bot.send_message(payload.chat_id, payload.text)
        except RetryAfter as error:
            raise TryLater("Telegram asks for a pause", self._gate.close(payload.chat_id, error)) from error
        except TelegramError as error:
            raise verdict(error, repeatable=False) from error
        except (KeyError, TypeError) as error:  # what a proxy says instead of Telegram
            raise Uncertain("the answer was not Telegram's") from error
        return str(message.message_id)

    async def _edit(self, payload: Payload, message_id: int) -> bool:
        """False where there is no such message any more."""
        if self._gate.shown.pop((payload.chat_id, message_id), None) == payload.text:
            return True  # the live view was complete already
        try:
            await self._bot.edit_message_text(payload.text, payload.chat_id, message_id)
        except BadRequest as error:
            said = error.message.lower()
            if "not modified" in said:
                return True
            if "to edit not found" in said or "can't be edited" in said:
                return False
            raise
        except RetryAfter:
            raise
        except TelegramError as error:
            raise verdict(error, repeatable=True) from error
        return True
