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


class Wish(Enum):
    """What only an operator can ask for."""

    COST = "cost"
    STATUS = "status"
    HOLD = "hold"
    RELEASE = "release"


def command_of(message: telegram.Message) -> Command | None:
    """The command in a message; None where it is for the model."""
    if not message.text:
        return Command.NOT_TEXT
    if not message.text.startswith("/"):
        return None
    name, _ = _words(message.text)
    return Command(name) if name in {"start", "new", "stop", "help"} else Command.UNKNOWN


def wish_of(message: telegram.Message) -> tuple[Wish, str] | None:
    """What an operator asks for, and what is written behind it."""
    if not message.text or not message.text.startswith("/"):
        return None
    name, rest = _words(message.text)
    return (Wish(name), rest) if name in {wish.value for wish in Wish} else None


def _words(text: str) -> tuple[str, str]:
    """A command's name, which may be addressed to this bot, and the rest."""
    name, *rest = [*text[1:].split(maxsplit=1), ""][:2]
    return name.partition("@")[0].lower(), "".join(rest).strip()


def answer_to(command: Command, texts: Texts, *, demo: bool, stopped: bool, operator: bool = False) -> str:
    """What the bot replies to a command. `operator`: whether the asker may look after the instance."""
    help_ = f"{texts.help}\n\n{texts.operator_help}" if operator else texts.help
    introduction = {Command.START: texts.hello, Command.HELP: help_}
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
