"""What the bot says, in both languages, and what it takes a message for."""

import string
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import telegram

from bot.live import Outcome
from bot.telegram.commands import REFUSE_EVERY, Command, Strangers, Wish, answer_to, command_of, wish_of
from bot.telegram.parts import LIMIT, units
from bot.telegram.stream import LiveAnswers, Origin, final_text
from bot.telegram.texts import CHINESE, ENGLISH, Texts, texts_for
from inference.protocol import Usage
from storage.inbox import Claim

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHAT = telegram.Chat(7, "private")
FIELDS = [field.name for field in msgspec.structs.fields(Texts) if field.type is str]

both_languages = pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["en", "zh"])


def outcome(text: str, finish_reason: str = "stop") -> Outcome:
    return Outcome(text, "", finish_reason, Usage(1, 0, 1), NOW, NOW + timedelta(seconds=1))


def claim(placeholder: str | None = None, language: str = "en") -> Claim:
    meta = msgspec.json.encode(Origin(7, language)).decode()
    return Claim(1, "msg_1", "telegram", 1, "telegram:7", "Hi", meta, placeholder, 1, 1, "test", NOW)


def planned(claim: Claim, outcome: Outcome) -> list[tuple[str, int | None]]:
    """The texts of an answer, each with the message that it replaces."""
    deliveries = LiveAnswers(bot=None, db=None, gate=None).deliveries(claim, outcome)
    assert {(delivery.channel, delivery.lane) for delivery in deliveries} == {("telegram", "7")}
    payloads = [msgspec.json.decode(delivery.payload) for delivery in deliveries]
    return [(payload["text"], payload["edit"]) for payload in payloads]


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("field", FIELDS)
def test_both_languages_say_the_same_and_fit_into_a_message(field: str):
    english, chinese = getattr(ENGLISH, field), getattr(CHINESE, field)
    assert fields(english) == fields(chinese)
    assert ("qwen3-4b" in english, "/new" in english) == ("qwen3-4b" in chinese, "/new" in chinese)
    assert any("一" <= character <= "鿿" for character in chinese)
    assert 0 < units(chinese) <= LIMIT
    assert 0 < units(english) <= LIMIT


def test_both_menus_offer_the_same_commands_and_those_exist():
    assert ENGLISH.menu.keys() == CHINESE.menu.keys()
    assert all([*ENGLISH.menu.values(), *CHINESE.menu.values()])
    assert {Command(name) for name in ENGLISH.menu} == {Command.NEW, Command.STOP, Command.HELP}
    assert ENGLISH.operator_menu.keys() == CHINESE.operator_menu.keys() == {wish.value for wish in Wish}
    assert all([*ENGLISH.operator_menu.values(), *CHINESE.operator_menu.values()])


@both_languages
def test_an_operators_help_names_each_of_their_commands_and_nobody_elses_does(texts: Texts):
    helps = [answer_to(Command.HELP, texts, demo=False, stopped=False, operator=who) for who in (True, False)]
    assert [all(f"/{wish.value}" in help_ for wish in Wish) for help_ in helps] == [True, False]
    assert not any(f"/{wish.value}" in helps[1] for wish in Wish)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("/cost", (Wish.COST, "")),
        ("/STATUS@dswbot_bot", (Wish.STATUS, "")),
        ("/hold 2h", (Wish.HOLD, "2h")),
        ("/hold\n 18:00 ", (Wish.HOLD, "18:00")),
        ("/release now please", (Wish.RELEASE, "now please")),
        ("/costs", None),
        ("/", None),
        ("cost", None),
        (None, None),
    ],
)
def test_what_an_operator_asks_for(text: str | None, wish: tuple[Wish, str] | None):
    message = telegram.Message(1, NOW, CHAT, text=text)
    assert wish_of(message) == wish
    assert command_of(message) is (Command.NOT_TEXT if text is None else None if text == "cost" else Command.UNKNOWN)


@pytest.mark.parametrize("code", ["zh", "zh-hans", "zh-Hant", "zh-TW", "ZH-CN"])
def test_every_kind_of_chinese_gets_chinese(code: str):
    assert texts_for(code) is CHINESE


@pytest.mark.parametrize("code", ["", "en", "en-GB", "fr", "ja"])
def test_everybody_else_gets_english(code: str):
    assert texts_for(code) is ENGLISH


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/start", Command.START),
        ("/start a-deep-link", Command.START),
        ("/NEW", Command.NEW),
        ("/stop@dswbot_bot", Command.STOP),
        ("/help\nplease", Command.HELP),
        ("/dance", Command.UNKNOWN),
        ("/", Command.UNKNOWN),
        ("/?", Command.UNKNOWN),
        (None, Command.NOT_TEXT),
        ("What is /new?", None),
        ("你好", None),
    ],
)
def test_what_a_message_is_taken_for(text: str | None, command: Command | None):
    assert command_of(telegram.Message(1, NOW, CHAT, text=text)) is command


@both_languages
def test_each_command_has_an_answer_and_only_the_demo_speaks_of_itself(texts: Texts):
    answers = {command: answer_to(command, texts, demo=False, stopped=True) for command in Command}
    assert len(set(answers.values())) == len(Command)
    for command in Command:
        assert "qwen3-4b" not in answers[command]
        speaks = texts.demo in answer_to(command, texts, demo=True, stopped=True)
        assert speaks == (command in {Command.START, Command.HELP})
    assert answer_to(Command.STOP, texts, demo=False, stopped=False) == texts.nothing_to_stop


def test_strangers_are_told_once_a_minute_each(monkeypatch: pytest.MonkeyPatch):
    clock = [1000.0]
    monkeypatch.setattr("bot.telegram.commands.time.monotonic", lambda: clock[0])
    strangers = Strangers()
    assert [strangers.may_be_told(user) for user in (1, 1, 2)] == [True, False, True]
    clock[0] += REFUSE_EVERY - 1
    assert not strangers.may_be_told(1)
    clock[0] += 1
    assert strangers.may_be_told(1)


def test_an_answer_of_9000_characters_is_three_messages_of_which_the_first_takes_the_placeholder():
    text = " ".join(f"{n:08}" for n in range(1000))
    parts = planned(claim(placeholder="42"), outcome(text))
    assert [edit for _, edit in parts] == [42, None, None]
    assert " ".join(part for part, _ in parts) == text


def test_an_answer_without_placeholder_is_sent():
    assert planned(claim(), outcome("Hello.")) == [("Hello.", None)]


@both_languages
def test_how_an_answer_ended_is_told(texts: Texts):
    assert final_text(outcome(" Hello. "), texts) == "Hello."
    assert final_text(outcome("So far", "cancelled"), texts) == f"So far\n\n{texts.stopped_mark}"
    assert final_text(outcome("", "cancelled"), texts) == texts.stopped_empty
    assert final_text(outcome("As much", "length"), texts) == f"As much\n\n{texts.too_long_mark}"
    assert final_text(outcome("", "length"), texts) == texts.too_long_mark
    told = final_text(outcome("The {model} is away.", "error"), texts)
    assert "The {model} is away." in told
    assert "\n" not in told


def test_an_answer_of_nothing_is_told_in_the_users_language():
    assert planned(claim(placeholder="42"), outcome("")) == [(ENGLISH.no_answer, 42)]
    assert planned(claim(placeholder="42", language="zh-hans"), outcome(" \n")) == [(CHINESE.no_answer, 42)]


def test_a_mark_at_the_end_of_a_full_message_goes_into_the_next():
    parts = planned(claim(placeholder="42"), outcome("a" * 4096, "cancelled"))
    assert parts == [("a" * 4096, 42), ("(stopped)", None)]
