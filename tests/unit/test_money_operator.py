"""What operators are offered, and what becomes of what they ask, in every state."""

import string
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest

from bot.money.notice import Kind, Notice
from bot.money.operator import Operator
from bot.money.operator_buttons import Buttons, Choice, Press, Rows
from bot.money.operator_ruling import Asked, Ruling, Rulings, hold_end
from bot.money.operator_status import status
from bot.money.operator_words import CHINESE, ENGLISH, Words
from bot.money.quiet import QuietHours
from bot.money.situation import Memory, Reminder, Rules, State, Trouble

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 24, 4, tzinfo=UTC)  # in Shanghai
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
BUTTONS = Buttons("dsw-0123456789abcdef", SHANGHAI)
STOPS = Rules(action="stop", allow_stop=True, dry_run=False)
UP = (State.ACTIVE, State.IDLE, State.WARNED, State.HELD, State.DRAINING, State.SAVING, State.DEGRADED)
DOWN = (State.STOPPED, State.BLOCKED)
STARTING = (State.WAKING, State.WARMING)


def labels(rows: Rows) -> list[list[str]]:
    return [[button.label for button in row] for row in rows]


def asked(state: State = State.IDLE, epoch: int = 7, language: str = "en", **memory: object) -> Asked:
    return Asked(Memory(state=state, epoch=epoch, **memory), "in use: an answer (requests)", language, "Li", NOON)


def ruling(choice: Choice, who: Asked, number: int = 0, *, epoch: int = 7, rules: Rules = STOPS) -> Ruling:
    return Rulings(BUTTONS, rules).press(Press(epoch, choice, number), who)


# Buttons


def test_every_button_fits_and_says_again_what_it_was_for() -> None:
    far = Buttons("dsw-" + "x" * 200, SHANGHAI)
    for keyboard in (far.choices(999_999_999, "", NOON, stop=True), far.confirm(999_999_999, "zh", used=True),
                     far.wake(999_999_999, "")):  # fmt: skip
        for button in (button for row in keyboard for button in row):
            assert 1 <= len(button.data.encode()) <= 64
            press = far.press(button.data)
            assert press is not None
            assert press.epoch == 999_999_999


@pytest.mark.parametrize(
    "data",
    ["", "op", "stop", "op:000000:7:stop", "op:{tag}:7:dance", "op:{tag}:x:stop", "op:{tag}:7:hold:",
     "op:{tag}:7:stop\n", "op:{tag}:7:until:999999999999", "op:{tag}:٧:stop", "op:{tag}:7:STOP"],
)  # fmt: skip
def test_what_is_no_button_of_this_instance_is_none(data: str) -> None:
    tag = BUTTONS.wake(1, "en")[0][0].data.split(":")[1]
    assert BUTTONS.press(f"op:{tag}:7:stop") == Press(7, Choice.STOP, 0)
    assert BUTTONS.press(data.format(tag=tag)) is None
    assert Buttons("dsw-other", SHANGHAI).press(f"op:{tag}:7:stop") is None


@pytest.mark.parametrize(
    ("local", "offered"),
    [
        ("00:10", {"Until 18:00": 18, "Until 09:00": 9}),
        ("04:59", {"Until 18:00": 18, "Until 09:00": 9}),
        ("05:00", {"Until 18:00": 18, "Until tomorrow 09:00": 33}),
        ("17:30", {"Until 18:00": 18, "Until tomorrow 09:00": 33}),
        ("17:31", {"Until tomorrow 09:00": 33}),
        ("23:59", {"Until tomorrow 09:00": 33}),
    ],
)
def test_times_are_offered_that_are_ahead_and_can_not_be_misread(local: str, offered: dict[str, int]) -> None:
    midnight = datetime(2026, 11, 24, tzinfo=SHANGHAI)
    at = datetime.fromisoformat(f"2026-11-24T{local}").replace(tzinfo=SHANGHAI)
    row = BUTTONS.choices(7, "en", at, stop=True)[1]
    ends = {button.label: BUTTONS.press(button.data).number for button in row if button.label.startswith("Until")}
    assert ends == {label: int((midnight + hours * HOUR).timestamp()) for label, hours in offered.items()}


def test_a_morning_is_at_nine_also_where_the_clocks_are_changed_that_night() -> None:
    saturday = datetime(2026, 10, 24, 12, tzinfo=BERLIN)
    button = Buttons("x", BERLIN).choices(1, "en", saturday, stop=False)[1][-1]
    press = Buttons("x", BERLIN).press(button.data)
    assert datetime.fromtimestamp(press.number, BERLIN).isoformat() == "2026-10-25T09:00:00+01:00"


def test_without_a_language_labels_are_in_both() -> None:
    assert labels(BUTTONS.wake(7, "")) == [["Wake it / 唤醒"]]
    assert labels(BUTTONS.wake(7, "zh-hans")) == [["唤醒"]]
    assert labels(BUTTONS.wake(7, "fr")) == [["Wake it"]]


@pytest.mark.parametrize("kind", [*Reminder, *Trouble, *Kind])
@pytest.mark.parametrize("stoppable", [True, False])
def test_what_each_notice_offers(kind: str, stoppable: bool) -> None:
    notice = Notice(kind=kind, key="k", instance="x", epoch=7, at=NOON, reason="", stoppable=stoppable)
    offered = [one for row in labels(Operator(None, "x", STOPS, SHANGHAI, None).keyboard(notice, "en")) for one in row]
    if kind in {Kind.STOPPED, Trouble.WAKE_FAILED, Trouble.WAKE_BLOCKED}:
        assert offered == ["Wake it"]
        return
    assert ("Stop now" in offered) == stoppable
    idle = kind in set(Reminder) - {Reminder.DRY_RUN_SAVED}
    assert {"30 more min", "2 h", "Mute today"} & set(offered) == (
        {"30 more min", "2 h", "Mute today"} if idle else set()
    )


# Stops


@pytest.mark.parametrize("state", UP)
def test_a_stop_is_asked_for_twice(state: State) -> None:
    first = ruling(Choice.ASK, asked(state))
    assert first.kind is None
    yes, no = first.pressed.keyboard[0]
    second = ruling(BUTTONS.press(yes.data).choice, asked(state))
    assert second.kind == ("force" if state is State.ACTIVE else "stop")
    assert (second.pressed.line, second.pressed.keyboard) == ("Stop asked for at 12:00 (Asia/Shanghai) by Li", None)
    back = ruling(BUTTONS.press(no.data).choice, asked(state))
    assert back.kind is None
    assert labels(back.pressed.keyboard) == labels(BUTTONS.choices(7, "en", NOON, stop=True))


def test_who_stops_what_is_in_use_is_told_so_in_a_toasts_length() -> None:
    who = replace(asked(State.ACTIVE), reason="in use: " + "x" * 500)
    question = ruling(Choice.ASK, who).pressed.toast
    assert "in use: xxx" in question
    assert len(question) <= 200


@pytest.mark.parametrize("choice", [Choice.ASK, Choice.STOP, Choice.FORCE])
@pytest.mark.parametrize(
    ("who", "epoch", "rules", "said", "left"),
    [
        (asked(epoch=8), 7, STOPS, ENGLISH.old, "30 more min"),
        (asked(), 7, Rules(), ENGLISH.not_allowed, "30 more min"),
        *((asked(state), 7, STOPS, ENGLISH.down, "Wake it") for state in DOWN),
        *((asked(state), 7, STOPS, ENGLISH.starting, "") for state in STARTING),
        (asked(State.STOPPING), 7, STOPS, ENGLISH.down, ""),
    ],
)
def test_a_stop_that_can_not_be_is_refused_with_the_reason(
    choice: Choice, who: Asked, epoch: int, rules: Rules, said: str, left: str
) -> None:
    refused = ruling(choice, who, epoch=epoch, rules=rules)
    assert (refused.kind, refused.pressed.toast, refused.pressed.line) == (None, said, "")
    assert (labels(refused.pressed.keyboard or ()) or [[""]])[0] == [left]


# Holds, mutes, wakes


@pytest.mark.parametrize("state", [*UP, *STARTING])
@pytest.mark.parametrize("epoch", [3, 7])
def test_a_hold_counts_from_any_notice_while_it_is_up(state: State, epoch: int) -> None:
    for choice, number, until in ((Choice.HOLD, 30, NOON + 30 * MINUTE),
                                  (Choice.UNTIL, int((NOON + 6 * HOUR).timestamp()), NOON + 6 * HOUR)):  # fmt: skip
        held = ruling(choice, asked(state), number, epoch=epoch)
        assert (held.kind, held.until, held.pressed.keyboard) == ("hold", until, None)
        assert f"{until.astimezone(SHANGHAI):%H:%M} (Asia/Shanghai) by Li" in held.pressed.line


@pytest.mark.parametrize(
    ("choice", "number", "who", "said"),
    [
        (Choice.UNTIL, int(NOON.timestamp()), asked(), ENGLISH.passed),
        (Choice.UNTIL, int((NOON + 49 * HOUR).timestamp()), asked(), ENGLISH.passed),
        (Choice.HOLD, 99_999_999_999, asked(), ENGLISH.passed),
        (Choice.HOLD, 0, asked(), ENGLISH.passed),
        (Choice.HOLD, 30, asked(State.STOPPED), ENGLISH.down),
        (Choice.HOLD, 30, asked(State.STOPPING), ENGLISH.going),
        (Choice.UNTIL, 99_999_999_999, asked(State.BLOCKED, language="zh"), CHINESE.down),
    ],
)
def test_a_hold_that_can_not_be_is_refused_with_the_reason(choice: Choice, number: int, who: Asked, said: str) -> None:
    refused = ruling(choice, who, number)
    assert (refused.kind, refused.pressed.toast) == (None, said)


def test_a_mute_is_until_midnight_of_the_operators_day() -> None:
    for at, until in ((NOON, datetime(2026, 11, 24, 16, tzinfo=UTC)),
                      (NOON + 13 * HOUR, datetime(2026, 11, 25, 16, tzinfo=UTC))):  # fmt: skip
        muted = ruling(Choice.MUTE, replace(asked(), at=at))
        assert (muted.kind, muted.until) == ("mute", until)
        assert "00:00 on 2" in muted.pressed.line


def test_only_what_is_down_is_woken() -> None:
    for state in State:
        woken = ruling(Choice.WAKE, asked(state))
        assert woken.kind == ("wake" if state in DOWN else None)
        assert bool(woken.pressed.line) == (state in DOWN)


@pytest.mark.parametrize("choice", Choice)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_press_in_every_state_is_answered_shortly(choice: Choice, state: State, language: str) -> None:
    for who in (asked(state, language=language), asked(state, epoch=8, language=language)):
        pressed = ruling(choice, who, 30).pressed
        assert 0 < len(pressed.toast) <= 200
        assert not (pressed.line and pressed.keyboard)


@pytest.mark.parametrize(
    ("typed", "end"),
    [
        ("30m", NOON + 30 * MINUTE), (" 2H ", NOON + 2 * HOUR), ("1.5h", NOON + 90 * MINUTE),
        ("45 min", NOON + 45 * MINUTE),
        ("3小时", NOON + 3 * HOUR), ("20 分钟", NOON + 20 * MINUTE), ("24h", NOON + 24 * HOUR),
        ("18:00", NOON + 6 * HOUR), ("18：00", NOON + 6 * HOUR), ("9:30", NOON + timedelta(hours=21, minutes=30)),
        ("12:00", NOON + 24 * HOUR),
        ("", None), ("h", None), ("0m", None), ("25h", None), ("24:00", None), ("12:60", None), ("-2h", None),
        ("tomorrow", None), ("9999999h", None), ("2h please", None),
    ],
)  # fmt: skip
def test_a_hold_as_it_is_typed(typed: str, end: datetime | None) -> None:
    assert hold_end(typed, NOON, SHANGHAI) == end


def test_a_time_that_comes_twice_or_never_that_night_is_one_time() -> None:
    evening = datetime(2026, 10, 24, 22, tzinfo=BERLIN)
    assert hold_end("2:30", evening, BERLIN) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    evening = datetime(2026, 3, 28, 22, tzinfo=BERLIN)
    assert hold_end("2:30", evening, BERLIN) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


# The state in words


@pytest.mark.parametrize(
    ("who", "rules", "line"),
    [
        (asked(State.ACTIVE), STOPS, "Next: once it is idle for 15 min, you are told."),
        (asked(idle_since=NOON - MINUTE), STOPS,
         "Next: it is stopped at 12:24 (Asia/Shanghai) at the latest, unless it is used."),
        (asked(idle_since=NOON - MINUTE), replace(STOPS, dry_run=True),
         "Next: nothing; this is a dry run, which would stop it at 12:24 (Asia/Shanghai) at the latest."),
        (asked(idle_since=NOON - MINUTE), Rules(), ENGLISH.by_itself_not),
        (asked(State.WARNED, warn_deadline=NOON + 8 * MINUTE), STOPS,
         "Next: it is stopped at 12:08 (Asia/Shanghai), unless it is used or held."),
        (asked(State.HELD, held_until=NOON + 21 * HOUR), STOPS,
         "Next: idle time counts again from 09:00 on 25 Nov (Asia/Shanghai)."),
        (asked(State.STOPPED), STOPS, ENGLISH.message_wakes),
        (asked(State.BLOCKED), STOPS, ENGLISH.human),
        (asked(State.DEGRADED), STOPS, ENGLISH.human),
        (asked(State.DEGRADED, next_try_at=NOON + MINUTE), STOPS, "Next: it is tried again at 12:01 (Asia/Shanghai)."),
        (asked(State.HELD, language="zh", held_until=NOON + HOUR), STOPS,
         "接下来：13:00 (Asia/Shanghai) 起重新计算空闲时间。"),
    ],
)  # fmt: skip
def test_what_comes_next(who: Asked, rules: Rules, line: str) -> None:
    assert line in status(who, NOON, rules, SHANGHAI, "Today: ¥1.").splitlines()


@pytest.mark.parametrize(
    ("since", "quiet"), [(NOON - HOUR, ""), (NOON, "12:20-13:00")], ids=["kept from it", "quiet hours"]
)
def test_what_nobody_can_say_is_not_said(since: datetime, quiet: str) -> None:
    rules = replace(STOPS, quiet=QuietHours.parse(quiet, "Asia/Shanghai"))
    assert "Next" not in status(asked(idle_since=since), NOON, rules, SHANGHAI, "")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_state_has_its_lines(state: State, language: str) -> None:
    lines = status(asked(state, language=language), NOON, STOPS, SHANGHAI, "¥1").splitlines()
    assert lines[0] == (CHINESE if language == "zh" else ENGLISH).states[state]
    assert "in use: an answer (requests)" in lines[1]
    assert "¥1" in lines
    assert not any("{" in line for line in lines)


def test_that_nobody_has_looked_for_long_is_said() -> None:
    assert "Nobody has looked" not in status(asked(), NOON - 5 * MINUTE, STOPS, SHANGHAI, "")
    told = status(asked(), NOON - 6 * MINUTE, STOPS, SHANGHAI, "").splitlines()
    assert told[-1] == "Nobody has looked since 11:54 (Asia/Shanghai)."


# Words


@pytest.mark.parametrize("name", [field.name for field in fields(Words)])
def test_both_languages_say_the_same(name: str) -> None:
    english, chinese = getattr(ENGLISH, name), getattr(CHINESE, name)
    if isinstance(english, Mapping):
        assert english.keys() == chinese.keys() == set(State)
        return
    if isinstance(english, tuple):
        assert len(english) == len(chinese)
        return
    assert _fields(english) == _fields(chinese)
    assert any("一" <= character <= "鿿" for character in chinese)


def _fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_a_memory_survives_being_written_down() -> None:
    memory = Memory(state=State.WARNED, epoch=3, idle_since=NOON, sent=(Reminder.IDLE,), raised=(Trouble.UNKNOWN,))
    assert msgspec.json.decode(msgspec.json.encode(memory), type=Memory) == memory
