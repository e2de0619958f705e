"""The Bot API's methods, and what Telegram knows of one bot: its chats, their messages, its commands.

Not modelled: media but photos, inline mode, channels, privacy mode (the bot reads all that is said in a group).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import asdict, replace

from tests.fakes.telegram_markup import units
from tests.fakes.telegram_menus import Menus
from tests.fakes.telegram_photos import photo
from tests.fakes.telegram_rules import MAX_UNITS, Formatted, caption, formatted, keyboard
from tests.fakes.telegram_types import (
    ApiError,
    CallbackQuery,
    Chat,
    InaccessibleMessage,
    Keyboard,
    Me,
    Message,
    Params,
    ReplyParameters,
    User,
    WebhookInfo,
    bad_request,
)
from tests.fakes.telegram_updates import UpdateQueue

MAX_TOAST_UNITS = 200
_NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same"
    " as a current content and reply markup of the message"
)
_ACTIONS = re.compile(
    r"typing|(upload|record)_(photo|video|voice|document|audio|video_note)|choose_sticker|find_location"
)


@dataclass(slots=True)
class Room:
    """A chat and all that was said in it; deleted messages are gone."""

    chat: Chat
    messages: dict[int, Message] = field(default_factory=dict)
    photos: dict[int, bytes] = field(default_factory=dict)  # by message
    edits: Counter[int] = field(default_factory=Counter)
    threads: set[int] = field(default_factory=set)
    blocked: bool = False
    draft: str = ""

    @property
    def is_private(self) -> bool:
        return self.chat.type == "private"


class BotAccount:
    def __init__(self, bot_id: int, callback_ttl: float) -> None:
        self.me = User(bot_id, is_bot=True, first_name="dswbot", username="dswbot_bot")
        self.violations: list[str] = []
        self.updates = UpdateQueue(self.violations)
        self.rooms: dict[int, Room] = {}
        self.menus = Menus(self.rooms.__contains__)
        self.toasts: list[tuple[int, str]] = []
        self._message_ids: Counter[int] = Counter()
        self._callback_ttl = callback_ttl
        self._pressed = 0
        self._callbacks: dict[str, tuple[float, int]] = {}  # those not answered yet: until when they may be, and whose
        self.methods: dict[str, Callable[[Params], object]] = {
            "getme": self._get_me,
            "getwebhookinfo": self._get_webhook_info,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._delete_webhook,
            "sendmessage": self._send_message,
            "sendphoto": self._send_photo,
            "sendmessagedraft": self._send_message_draft,
            "sendchataction": self._send_chat_action,
            "editmessagetext": self._edit_message_text,
            "editmessagereplymarkup": self._edit_message_reply_markup,
            "deletemessage": self._delete_message,
            "answercallbackquery": self._answer_callback_query,
            "setmycommands": self.menus.set,
            "getmycommands": self.menus.get,
        }

    def post(
        self,
        room: Room,
        sender: User,
        content: Formatted,
        *,
        markup: Keyboard | None = None,
        reply_to: Message | None = None,
        thread_id: int | None = None,
    ) -> Message:
        """Supergroups number their own messages, all other chats share one sequence."""
        series = room.chat.id if room.chat.type == "supergroup" else 0
        self._message_ids[series] += 1
        message = Message(
            self._message_ids[series],
            sender,
            room.chat,
            int(time.time()),
            content.text,
            content.entities,
            markup,
            reply_to_message=reply_to and replace(reply_to, reply_to_message=None),
            message_thread_id=thread_id,
            is_topic_message=thread_id is not None,
        )
        room.messages[message.message_id] = message
        return message

    def press(self, sender: User, message: Message, data: str, *, old: bool = False) -> int:
        """`old`: the message is no longer shown to the bot."""
        self._pressed += 1
        seen = InaccessibleMessage(message.message_id, message.chat, 0) if old else message
        query = CallbackQuery(f"{time.time_ns()}{self._pressed}", sender, seen, f"chat {message.chat.id}", data)
        self._callbacks[query.id] = time.monotonic() + self._callback_ttl, sender.id
        return self.updates.add(callback_query=query)

    def _room(self, params: Params) -> Room:
        if not params.get("chat_id"):
            raise bad_request("chat_id is empty")
        room = self.rooms.get(params.number("chat_id"))
        if room is None:
            raise bad_request("chat not found")
        if room.blocked:
            raise ApiError(403, "Forbidden: bot was blocked by the user")
        return room

    def _own_message(self, room: Room, params: Params) -> Message:
        if not params.get("message_id"):
            raise bad_request("message identifier is not specified")
        message = room.messages.get(params.number("message_id"))
        if message is None:
            raise bad_request("message to edit not found")
        if message.sender.id != self.me.id:
            raise bad_request("message can't be edited")
        return message

    def _send_message(self, params: Params) -> Message:
        return self._sent(params, formatted(params))

    def _send_photo(self, params: Params) -> Message:
        (content, size), below = photo(params), caption(params)
        message = self._sent(params, Formatted(""))
        room = self.rooms[message.chat.id]
        message = replace(message, photo=(size,), caption=below.text, caption_entities=below.entities)
        room.messages[message.message_id], room.photos[message.message_id] = message, content
        return message

    def _sent(self, params: Params, content: Formatted) -> Message:
        markup, room = keyboard(params), self._room(params)
        thread = params.number("message_thread_id") or None
        if thread and thread not in room.threads:
            raise bad_request("message thread not found")
        reply_to = self._replied(room, params)
        if units(content.text) > MAX_UNITS:
            raise bad_request("message is too long")
        room.draft = ""
        return self.post(room, self.me, content, markup=markup, reply_to=reply_to, thread_id=thread)

    @staticmethod
    def _replied(room: Room, params: Params) -> Message | None:
        reply = params.decoded("reply_parameters", ReplyParameters, "{}")
        message = room.messages.get(reply.message_id)
        if reply.message_id and message is None and not reply.allow_sending_without_reply:
            raise bad_request("message to be replied not found")
        return message

    def _send_message_draft(self, params: Params) -> bool:
        room, text = self._room(params), params.get("text", "")
        if not room.is_private:
            raise bad_request("TEXTDRAFT_PEER_INVALID")
        if not params.number("draft_id"):
            raise bad_request("draft_id must be non-zero")
        content = formatted(params) if text else Formatted("")
        if units(content.text) > MAX_UNITS:
            raise bad_request("message is too long")
        room.draft = content.text
        return True

    def _send_chat_action(self, params: Params) -> bool:
        self._room(params)
        if not _ACTIONS.fullmatch(params.get("action", "")):
            raise bad_request("wrong parameter action in request")
        return True

    def _edit_message_text(self, params: Params) -> Message:
        content, markup = formatted(params), keyboard(params)
        room = self._room(params)
        message = self._own_message(room, params)
        if not message.text:
            raise bad_request("there is no text in the message to edit")
        if units(content.text) > MAX_UNITS:
            raise bad_request("MESSAGE_TOO_LONG")
        return self._edit(room, message, content, markup)

    def _edit_message_reply_markup(self, params: Params) -> Message:
        markup, room = keyboard(params), self._room(params)
        message = self._own_message(room, params)
        return self._edit(room, message, Formatted(message.text, message.entities), markup)

    def _edit(self, room: Room, old: Message, content: Formatted, markup: Keyboard | None) -> Message:
        """An edit that brings no keyboard takes the old one away."""
        new = replace(old, text=content.text, entities=content.entities, reply_markup=markup)
        if new == old:
            self.violations.append(f"edit of message {old.message_id} in chat {room.chat.id} changes nothing")
            raise bad_request(_NOT_MODIFIED)
        new = replace(new, edit_date=int(time.time()))
        room.messages[old.message_id] = new
        room.edits[old.message_id] += 1
        return new

    def _delete_message(self, params: Params) -> bool:
        room = self._room(params)
        message = room.messages.get(params.number("message_id"))
        if message is None:
            raise bad_request("message to delete not found")
        if message.sender.id != self.me.id and not room.is_private:
            raise bad_request("message can't be deleted")
        del room.messages[message.message_id]
        return True

    def _answer_callback_query(self, params: Params) -> bool:
        text, name = params.get("text", ""), params.get("callback_query_id", "")
        if units(text) > MAX_TOAST_UNITS:
            raise bad_request("MESSAGE_TOO_LONG")
        until, presser = self._callbacks.pop(name, (0, 0))
        if until < time.monotonic():
            raise bad_request("query is too old and response timeout expired or query ID is invalid")
        self.toasts.append((presser, text))
        return True

    def _get_me(self, _: Params) -> Me:
        return Me(
            **asdict(self.me),
            can_join_groups=True,
            can_read_all_group_messages=True,
            supports_inline_queries=False,
        )

    def _get_webhook_info(self, _: Params) -> WebhookInfo:
        return WebhookInfo(self.updates.webhook_url, False, len(self.updates.pending))

    def _set_webhook(self, params: Params) -> bool:
        url = params.get("url", "")
        if url and not url.startswith("https://"):
            raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
        if not re.fullmatch(r"[\w-]{0,256}", params.get("secret_token", ""), re.ASCII):
            raise bad_request("secret token contains unallowed characters")
        self.updates.allow(params)
        self.updates.set_webhook(url, drop_pending=params.flag("drop_pending_updates"))
        return True

    def _delete_webhook(self, params: Params) -> bool:
        self.updates.set_webhook("", drop_pending=params.flag("drop_pending_updates"))
        return True
