"""A strict Telegram Bot API server for tests: what it accepts, refuses and counts is how Telegram behaves.

    async with FakeTelegram(token="123:abc") as tg:
        bot = telegram.Bot("123:abc", base_url=tg.base_url, base_file_url=tg.base_file_url)
        tg.user_sends("hello")
        await tg.wait_for(lambda: tg.chat(7)[-1].sender == "bot")

telegram_http serves the calls, telegram_methods carries them out, telegram_updates is getUpdates, and both
telegram_rules and telegram_markup say what happens to texts, telegram_photos what a picture is,
telegram_menus who is offered which commands. A webhook can be set, but nothing is posted to
it: `pending` holds what it would get. Where Telegram's own wording of a refusal is not known, it is ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from tests.fakes.telegram_http import BotApiServer, Call, Fault
from tests.fakes.telegram_markup import units
from tests.fakes.telegram_methods import BotAccount, Room
from tests.fakes.telegram_rules import MAX_UNITS, Flood, FloodGate, Formatted, user_entities
from tests.fakes.telegram_types import Button, Chat, Entity, Message, Update, User

__all__ = ["Call", "FakeTelegram", "Fault", "Flood", "Shown"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as those in the chat see it now; `sender` is "bot" or the user's name."""

    id: int
    sender: str
    text: str
    edits: int
    entities: tuple[Entity, ...]
    date: int  # seconds since 1970
    buttons: tuple[tuple[str, ...], ...]
    reply_to: int | None
    photo: bytes | None = None  # then `text` is what stands below it


class FakeTelegram:
    def __init__(self, token: str = "123:abc", *, flood: Flood | None = None, callback_ttl: float = 15) -> None:
        """`callback_ttl`: seconds to answer a pressed button in; Telegram publishes no number."""
        self._account = BotAccount(int(token.partition(":")[0]), callback_ttl)
        self._server = BotApiServer(token, self._account, FloodGate(flood))

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop()

    @property
    def base_url(self) -> str:
        return f"{self._server.address}/bot"

    @property
    def base_file_url(self) -> str:
        return f"{self._server.address}/file/bot"

    @property
    def calls(self) -> list[Call]:
        """Every request of the bot's, in the order in which they came."""
        return self._server.calls

    @property
    def violations(self) -> list[str]:
        """What a bot must never do, in words, in the order in which it did it."""
        return self._account.violations

    @property
    def pending(self) -> list[Update]:
        """The updates that the bot has not confirmed yet."""
        return self._account.updates.pending

    def open_chat(self, chat_id: int, chat_type: str = "private", name: str = "Ann") -> Room:
        """A chat that the bot may write to, as if it had been used before."""
        if chat_id in self._account.rooms:
            return self._account.rooms[chat_id]
        assert (chat_type == "private") == (chat_id > 0), "ids of groups are negative, those of users positive"
        title, first_name = (None, name) if chat_type == "private" else (f"{name}'s group", None)
        room = self._account.rooms[chat_id] = Room(Chat(chat_id, chat_type, title, first_name))
        return room

    def user_sends(
        self,
        text: str,
        user_id: int = 7,
        chat_id: int | None = None,
        chat_type: str = "private",
        language_code: str = "en",
        name: str = "Ann",
        *,
        reply_to: int | None = None,
        thread_id: int | None = None,
    ) -> int:
        """The update's id (0 where allowed_updates keeps it from the bot). Writing to a bot unblocks it."""
        assert 0 < units(text) <= MAX_UNITS, "an app splits longer texts before it sends them"
        room = self.open_chat(user_id if chat_id is None else chat_id, chat_type, name)
        room.blocked = False
        if thread_id is not None:
            room.threads.add(thread_id)
        message = self._account.post(
            room,
            User(user_id, is_bot=False, first_name=name, language_code=language_code),
            Formatted(text, user_entities(text)),
            reply_to=None if reply_to is None else room.messages[reply_to],
            thread_id=thread_id,
        )
        return self._account.updates.add(message=message)

    def user_presses(
        self,
        button: str,
        user_id: int = 7,
        chat_id: int | None = None,
        language_code: str = "en",
        name: str = "Ann",
        *,
        old: bool = False,
    ) -> int:
        """Presses the newest button with this text or callback_data; the update's id, as of `user_sends`.

        `old`: Telegram does not show the bot the message again.
        """
        room = self._account.rooms[user_id if chat_id is None else chat_id]
        for message in reversed(room.messages.values()):
            for key in (key for row in _buttons(message) for key in row):
                if key.callback_data is not None and button in {key.text, key.callback_data}:
                    presser = User(user_id, is_bot=False, first_name=name, language_code=language_code)
                    return self._account.press(presser, message, key.callback_data, old=old)
        raise LookupError(f"no button {button!r} to press in chat {room.chat.id}")

    @property
    def toasts(self) -> list[tuple[int, str]]:
        """What the bot answered to presses: (the presser's id, text)."""
        return self._account.toasts

    def menu(self, chat_id: int, language_code: str = "en") -> dict[str, str]:
        """The commands that a private chat's user is offered, with what they are said to do."""
        return {one.command: one.description for one in self._account.menus.seen(chat_id, language_code[:2])}

    def block(self, user_id: int) -> None:
        """The user blocks the bot, until they write to it again."""
        self._account.rooms[user_id].blocked = True

    def fail_next(self, method: str, fault: Fault, times: int = 1) -> None:
        """Each of so many calls of this method meets the fault, if no flood limit stops it before."""
        self._server.faults[method.lower()].extend([fault] * times)

    def chat(self, chat_id: int) -> list[Shown]:
        """The messages of a chat, oldest first; none where there is no such chat."""
        room = self._account.rooms.get(chat_id)
        return [_shown(room, message) for message in room.messages.values()] if room else []

    def draft(self, chat_id: int) -> str:
        """What the bot's last sendMessageDraft shows, until it sends a message."""
        return self._account.rooms[chat_id].draft

    def transcript(self, chat_id: int) -> str:
        return "\n".join(_line(message) for message in self.chat(chat_id))

    async def wait_for(self, predicate: Callable[[], T], timeout: float = 5) -> T:
        """The predicate's first true value; TimeoutError, with all that happened, after so many seconds."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s\n{self._story()}")
            await asyncio.sleep(0.01)
        return value

    def _story(self) -> str:
        chats = (f"chat {chat_id}:\n{self.transcript(chat_id)}" for chat_id in self._account.rooms)
        calls = (f"{call.method} {dict(call.params)} -> {call.outcome}" for call in self.calls[-20:])
        return "\n".join((*chats, "last calls:", *calls, f"violations: {self.violations}"))


def _buttons(message: Message) -> tuple[tuple[Button, ...], ...]:
    return message.reply_markup.inline_keyboard if message.reply_markup else ()


def _shown(room: Room, message: Message) -> Shown:
    return Shown(
        message.message_id,
        "bot" if message.sender.is_bot else message.sender.first_name,
        message.caption if message.photo else message.text,
        room.edits[message.message_id],
        message.entities,
        message.date,
        tuple(tuple(key.text for key in row) for row in _buttons(message)),
        message.reply_to_message.message_id if message.reply_to_message else None,
        room.photos.get(message.message_id),
    )


def _line(message: Shown) -> str:
    edits = f" (edited {message.edits}x)" if message.edits else ""
    buttons = "".join(f" [{text}]" for row in message.buttons for text in row)
    return f"{message.sender}: {'(photo) ' if message.photo else ''}{message.text}{edits}{buttons}"
