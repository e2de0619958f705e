"""The answer while it is written: one message, placed once, then edited as the text grows."""

import time

import msgspec
import structlog
import telegram
from telegram.error import BadRequest, RetryAfter, TelegramError

from bot.delivery import Uncertain
from bot.live import LiveTurn, Outcome
from bot.telegram.gate import FloodGate, edit_gap
from bot.telegram.parts import LIMIT, preview, split
from bot.telegram.send import Payload, planned, verdict
from bot.telegram.texts import Texts, texts_for
from storage import inbox
from storage.database import Database
from storage.inbox import Claim
from storage.outbox import NewDelivery

log = structlog.get_logger()

PLACEHOLDER = "…"
UNKNOWN = ""  # the number of a message that may or may not have arrived


class Origin(msgspec.Struct, frozen=True):
    """Where a message came from: what the inbox keeps of it for this adapter."""

    chat_id: int
    language: str = ""


def origin_of(claim: Claim) -> Origin:
    return msgspec.json.decode(claim.meta, type=Origin)


class LiveAnswers:
    """The channel "telegram" of the turns."""

    def __init__(self, bot: telegram.Bot, db: Database, gate: FloodGate) -> None:
        self._bot = bot
        self._db = db
        self._gate = gate

    async def show(self, live: LiveTurn) -> None:
        """Places the message and edits it until the text is complete; the outbox has the last word."""
        assert live.claim
        origin = origin_of(live.claim)
        texts = texts_for(origin.language)
        if live.placeholder is None:
            await self._place(origin.chat_id, live, live.claim)
        if not live.placeholder:
            return
        began = time.monotonic()
        shown, next_edit = PLACEHOLDER, began + edit_gap(0)
        while not live.completed:
            await live.changed(1.0)
            text, now = _visible(live, texts), time.monotonic()
            if live.completed or now < next_edit or text == shown or self._gate.wait(origin.chat_id):
                continue  # the gate may have been closed by what else is sent to this chat
            await self._edit(origin.chat_id, int(live.placeholder), text)
            shown, now = text, time.monotonic()
            next_edit = now + edit_gap(now - began)

    async def _place(self, chat_id: int, live: LiveTurn, claim: Claim) -> None:
        """Sends the message that will grow, once in the life of its question: that it is being sent is noted first.

        Where it arrives and Telegram's answer is lost, or the service dies before the number is stored, it stays
        behind as a "…": nobody can ask Telegram for its number, and an edit or deletion of a guessed one could hit
        another message. The answer then comes, whole, as a message of its own.
        """
        if self._gate.wait(chat_id):
            return
        await self._note(claim, UNKNOWN)
        live.placeholder = UNKNOWN
        try:
            message = await self._bot.send_message(chat_id, PLACEHOLDER)
            live.placeholder = str(message.message_id)
        except RetryAfter as error:
            self._gate.close(chat_id, error)
            live.placeholder = None
        except TelegramError as error:  # the answer then comes as a message of its own
            log.info("the answer is not shown while it is written", reason=error.message)
            if not isinstance(verdict(error, repeatable=False), Uncertain):
                live.placeholder = None
        if live.placeholder != UNKNOWN:
            await self._note(claim, live.placeholder)

    async def _note(self, claim: Claim, reference: str | None) -> None:
        async with self._db.write() as session:
            await inbox.set_placeholder(session, claim, reference)

    async def _edit(self, chat_id: int, message_id: int, text: str) -> None:
        try:
            await self._bot.edit_message_text(text, chat_id, message_id)
            self._gate.shown[chat_id, message_id] = text
        except RetryAfter as error:
            self._gate.close(chat_id, error)
        except BadRequest as error:
            if "not modified" not in error.message.lower():
                log.info("an edit was refused", reason=error.message)
        except TelegramError as error:
            log.info("an edit did not come through", reason=error.message)

    def deliveries(self, claim: Claim, outcome: Outcome) -> list[NewDelivery]:
        """The whole answer: its first part takes the live message's place, the others follow."""
        origin = origin_of(claim)
        parts = split(final_text(outcome, texts_for(origin.language)))
        first = int(claim.placeholder) if claim.placeholder else None
        edits = [first, *[None] * (len(parts) - 1)]
        return [planned(Payload(origin.chat_id, part, edit)) for part, edit in zip(parts, edits, strict=True)]


def _visible(live: LiveTurn, texts: Texts) -> str:
    return preview(live.text, LIMIT) or (texts.thinking if live.reasoning else PLACEHOLDER)


def final_text(outcome: Outcome, texts: Texts) -> str:
    """What the user is left with."""
    text = outcome.text.strip()
    match outcome.finish_reason:
        case "error":
            return texts.failed.format(reason=text)
        case "cancelled":
            return f"{text}\n\n{texts.stopped_mark}" if text else texts.stopped_empty
        case "length":
            return f"{text}\n\n{texts.too_long_mark}".strip()
    return text or texts.no_answer
