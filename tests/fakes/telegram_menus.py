"""The bot's lists of commands: for whom they are set, and which one a user sees."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from tests.fakes.telegram_types import BotCommand, Params, Wire, bad_request

_PLAIN = frozenset({"default", "all_private_chats", "all_group_chats", "all_chat_administrators"})
_OF_A_CHAT = frozenset({"chat", "chat_administrators", "chat_member"})


class Scope(Wire, frozen=True):
    type: str = ""
    chat_id: int | None = None
    user_id: int | None = None


Audience = tuple[Scope, str]  # and the language, "" for all


class Menus:
    """`knows`: whether the bot is in a chat of that id."""

    def __init__(self, knows: Callable[[int], bool]) -> None:
        self._knows = knows
        self._commands: dict[Audience, list[BotCommand]] = {}

    def set(self, params: Params) -> bool:
        commands = params.decoded("commands", list[BotCommand], "[]")
        if len(commands) > 100:
            raise bad_request("BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            if not re.fullmatch("[a-z0-9_]{1,32}", command.command):
                raise bad_request("BOT_COMMAND_INVALID")
            if not 1 <= len(command.description) <= 256:
                raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
        self._commands[self._audience(params)] = commands
        return True

    def get(self, params: Params) -> list[BotCommand]:
        return self._commands.get(self._audience(params), [])

    def seen(self, chat_id: int, language: str) -> list[BotCommand]:
        """What a private chat's user is offered: the narrowest list that is set."""
        scopes = (Scope("chat", chat_id), Scope("all_private_chats"), Scope("default"))
        lists = (self._commands.get((scope, code)) for scope in scopes for code in (language, ""))
        return next((commands for commands in lists if commands), [])

    def _audience(self, params: Params) -> Audience:
        language = params.get("language_code", "")
        if not re.fullmatch("([a-z]{2})?", language):
            raise bad_request("invalid language code specified")
        return self._scope(params), language

    def _scope(self, params: Params) -> Scope:
        try:
            scope = msgspec.json.decode(params.get("scope", '{"type":"default"}'), type=Scope)
        except msgspec.MsgspecError as error:
            raise bad_request(f"can't parse BotCommandScope: {error}") from error
        if scope.type in _PLAIN:
            return Scope(scope.type)
        if scope.type not in _OF_A_CHAT:
            raise bad_request("can't parse BotCommandScope: Unsupported type specified")
        if scope.chat_id is None:
            raise bad_request("can't parse BotCommandScope: Can't find field \"chat_id\"")
        if scope.type == "chat_member" and (scope.user_id or 0) <= 0:
            raise bad_request("can't parse BotCommandScope: Invalid user_id specified")
        if not self._knows(scope.chat_id):
            raise bad_request("chat not found")
        return scope
