"""The Bot API's objects as they go over the wire, with the fields that the fake fills.

Source: core.telegram.org/bots/api.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

T = TypeVar("T")


class ApiError(Exception):
    """An answer with ok=false; `retry_after` is in whole seconds and comes with 429 alone."""

    def __init__(self, code: int, description: str, retry_after: int | None = None) -> None:
        super().__init__(f"{code} {description}")
        self.code = code
        self.description = description
        self.retry_after = retry_after


def bad_request(reason: str) -> ApiError:
    return ApiError(400, f"Bad Request: {reason}")


class Wire(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object of the protocol: absent means the default."""


class User(Wire, frozen=True):
    id: int
    is_bot: bool
    first_name: str
    username: str | None = None
    language_code: str | None = None


class Me(User, frozen=True, kw_only=True):
    """The bot itself, as getMe alone shows it."""

    can_join_groups: bool
    can_read_all_group_messages: bool
    supports_inline_queries: bool


class Chat(Wire, frozen=True):
    id: int
    type: str
    title: str | None = None
    first_name: str | None = None
    is_forum: bool = False


class Entity(Wire, frozen=True):
    """A marked stretch of text; offset and length count UTF-16 units."""

    type: str
    offset: int
    length: int
    url: str | None = None
    language: str | None = None
    user: User | None = None
    custom_emoji_id: str | None = None


class Button(Wire, frozen=True, forbid_unknown_fields=True):
    text: str
    callback_data: str | None = None
    url: str | None = None


class Keyboard(Wire, frozen=True):
    inline_keyboard: tuple[tuple[Button, ...], ...]


class PhotoSize(Wire, frozen=True):
    file_id: str
    file_unique_id: str
    width: int  # pixels
    height: int
    file_size: int  # bytes


class Message(Wire, frozen=True, rename={"sender": "from"}):
    message_id: int
    sender: User
    chat: Chat
    date: int  # seconds since 1970
    text: str = ""
    entities: tuple[Entity, ...] = ()
    reply_markup: Keyboard | None = None
    edit_date: int | None = None
    reply_to_message: Message | None = None
    message_thread_id: int | None = None
    is_topic_message: bool = False
    photo: tuple[PhotoSize, ...] = ()
    caption: str = ""
    caption_entities: tuple[Entity, ...] = ()


class InaccessibleMessage(Wire, frozen=True):
    """What Telegram shows of a message that is too old, or deleted."""

    message_id: int
    chat: Chat
    date: int  # always 0


class CallbackQuery(Wire, frozen=True, rename={"sender": "from"}):
    id: str
    sender: User
    message: Message | InaccessibleMessage
    chat_instance: str
    data: str


class Update(Wire, frozen=True):
    update_id: int
    message: Message | None = None
    callback_query: CallbackQuery | None = None


class ReplyParameters(Wire, frozen=True):
    message_id: int = 0
    allow_sending_without_reply: bool = False


class WebhookInfo(msgspec.Struct, frozen=True):
    url: str
    has_custom_certificate: bool
    pending_update_count: int


class BotCommand(msgspec.Struct, frozen=True):
    command: str
    description: str


class Params(dict[str, str]):
    """A call's parameters, each as the text that a form would carry; objects and lists are JSON. `files`: uploads."""

    def __init__(self, given: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(given)
        self.files: dict[str, bytes] = {}

    def number(self, name: str, default: int = 0) -> int:
        """As Telegram reads it: what is no number counts as not given."""
        try:
            return int(self.get(name, ""))
        except ValueError:
            return default

    def decoded(self, name: str, kind: type[T], default: str) -> T:
        try:
            return msgspec.json.decode(self.get(name, default), type=kind)
        except msgspec.MsgspecError as error:
            raise bad_request(f"can't parse {name} JSON object: {error}") from error

    def flag(self, name: str) -> bool:
        return self.get(name, "").lower() in {"true", "yes", "1"}
