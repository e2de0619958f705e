"""What the bot itself says, and what it makes of what it is told."""

import datetime
import string

import msgspec
import pytest
import telegram

from bot.clock import now
from bot.live import Outcome
from bot.telegram.commands import REFUSE_EVERY, Command, Strangers, answer_to, command_of
from bot.telegram.parts import LIMIT, units
from bot.telegram.stream import PLACEHOLDER, final_text
from bot.telegram.texts import CHINESE, ENGLISH, Texts, texts_for
from inference.protocol import Usage

FIELDS = [field.name for field in msgspec.structs.fields(Texts) if field.type is str]


def fields_of(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("field", FIELDS)
def test_both_languages_say_the_same_and_fit_into_a_message(field: str):
    english, chinese = getattr(ENGLISH, field), getattr(CHINESE, field)
    assert fields_of(english) == fields_of(chinese)
    assert any("一" <= character <= "鿿" for character in chinese)
    assert 0 < units(chinese) <= LIMIT
    assert 0 < units(english) <= LIMIT


def test_both_menus_offer_the_same_commands_and_those_exist():
    assert ENGLISH.menu.keys() == CHINESE.menu.keys()
    assert {Command(name) for name in ENGLISH.menu} == {Command.NEW, Command.STOP, Command.HELP}


@pytest.mark.parametrize(
    ("code", "texts"),
    [("zh", CHINESE), ("zh-hans", CHINESE), ("zh-TW", CHINESE), ("ZH-CN", CHINESE), ("en", ENGLISH), ("", ENGLISH),
     ("de", ENGLISH)],
)  # fmt: skip
def test_a_language_code_chooses_the_texts(code: str, texts: Texts):
    assert texts_for(code) is texts


def message(text: str | None) -> telegram.Message:
    at = datetime.datetime.now(datetime.UTC)
    return telegram.Message(1, at, telegram.Chat(7, "private"), telegram.User(7, "Ann", is_bot=False), text=text)


@pytest.mark.parametrize(
    ("text", "command"),
    [("/start", Command.START), ("/new", Command.NEW), ("/stop@dswbot_bot", Command.STOP), ("/HELP me", Command.HELP),
     ("/dance", Command.UNKNOWN), ("/", Command.UNKNOWN), (None, Command.NOT_TEXT), ("what is /new?", None)],
)  # fmt: skip
def test_a_message_is_a_command_or_a_question(text: str | None, command: Command | None):
    assert command_of(message(text)) is command


@pytest.mark.parametrize("command", [Command.START, Command.HELP])
def test_only_the_demo_model_is_excused(command: Command):
    assert ENGLISH.demo in answer_to(command, ENGLISH, demo=True, stopped=False)
    assert "qwen3-4b" not in answer_to(command, ENGLISH, demo=False, stopped=False)


def test_a_stranger_is_refused_once_a_minute(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("bot.telegram.commands.time.monotonic", lambda: clock[0])
    strangers = Strangers()
    assert [strangers.may_be_told(1), strangers.may_be_told(1), strangers.may_be_told(2)] == [True, False, True]
    clock[0] = REFUSE_EVERY
    assert strangers.may_be_told(1)


@pytest.mark.parametrize(
    ("reason", "text", "shown"),
    [("stop", " Hello. ", "Hello."), ("stop", "", PLACEHOLDER),
     ("cancelled", "Once", "Once\n\n（已停止）"), ("cancelled", "", "已停止。"),
     ("length", "Once", "Once\n\n（回答已达到最大长度。）"), ("length", "", "（回答已达到最大长度。）"),
     ("error", "the model does not answer", "这条消息无法回答：the model does not answer")],
)  # fmt: skip
def test_how_an_answer_ended_is_said(reason: str, text: str, shown: str):
    assert final_text(Outcome(text, "", reason, Usage(0, 0, 0), now(), now()), CHINESE) == shown
