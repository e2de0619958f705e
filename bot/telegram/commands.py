"""Who is let in, and what a message means: a question to the model, or a command to the bot."""

import time
from enum import Enum

import telegram

from bot.telegram.texts import Texts

REFUSE_EVERY = 60.0  # seconds between two refusals of the same stranger


class Command(Enum):
    """What somebody wants that is no question."""

    START = "start"
    NEW = "new"
    STOP = "stop"
    HELP = "help"
    UNKNOWN = "?"
    NOT_TEXT = ""


def command_of(message: telegram.Message) -> Command | None:
    """The command in a message; None where it is for the model."""
    if not message.text:
        return Command.NOT_TEXT
    if not message.text.startswith("/"):
        return None
    word = message.text[1:].split(maxsplit=1)[:1] or [""]
    name = word[0].partition("@")[0].lower()
    return Command(name) if name in {"start", "new", "stop", "help"} else Command.UNKNOWN


def answer_to(command: Command, texts: Texts, *, demo: bool, stopped: bool) -> str:
    """What the bot replies to a command."""
    introduction = {Command.START: texts.hello, Command.HELP: texts.help}
    if command in introduction:
        return introduction[command] + (f"\n\n{texts.demo}" if demo else "")
    return {
        Command.NEW: texts.new,
        Command.STOP: texts.stopped if stopped else texts.nothing_to_stop,
        Command.NOT_TEXT: texts.text_only,
    }.get(command, texts.unknown_command)


class Strangers:
    """Keeps somebody who writes without end from being refused without end."""

    def __init__(self) -> None:
        self._told: dict[int, float] = {}

    def may_be_told(self, user_id: int) -> bool:
        now = time.monotonic()
        self._told = {user: at for user, at in self._told.items() if now - at < REFUSE_EVERY}
        if user_id in self._told:
            return False
        self._told[user_id] = now
        return True
