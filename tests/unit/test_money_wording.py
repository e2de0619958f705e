"""What notices say: every kind in both languages, with all figures and with none."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.money.event import Data, event
from bot.money.notice import Amount, Kind, Left, Notice
from bot.money.situation import Reminder, Trouble
from bot.money.wording import FIELD, duration, text, title, with_links
from bot.money.wording_en import ENGLISH
from bot.money.wording_zh import CHINESE

KINDS = [*Reminder, *Trouble, *Kind]
SHANGHAI = ZoneInfo("Asia/Shanghai")
AT = datetime(2026, 11, 24, 18, 14, tzinfo=UTC)  # 02:14 of the 25th in Shanghai
MINUTE = timedelta(minutes=1)


def full(kind: str = "idle", **changes: object) -> Notice:
    notice = Notice(
        kind=kind, key="idle:dsw-1:7:secret-key", instance="dsw-1", epoch=7, at=AT, reason="GPU 0 has done nothing",
        idle_since=AT - 31 * MINUTE, idle=31 * MINUTE, up=125 * MINUTE, cost=Amount(4.2, 3.61),
        hourly=Amount(8.1, 6.99), left=Left(12.34, 50.0, AT + timedelta(hours=7)), deadline=AT + 10 * MINUTE,
        stoppable=True, saved=Amount(4.26, 3.6), saved_time=30 * MINUTE, budget="compute-hours", period="2026-11",
        share=0.8,
    )  # fmt: skip
    return msgspec.structs.replace(notice, **changes)


def bare(kind: str) -> Notice:
    return Notice(kind=kind, key="secret-key", instance="", epoch=1, at=AT, reason="")


def test_an_idle_reminder_says_all_that_counts() -> None:
    assert text(full(), "en", SHANGHAI).splitlines() == [
        "GPU dsw-1 has been idle for 31 min, since 01:43 (Asia/Shanghai).",
        "This idle time has cost ¥4.20 and 3.61 compute-hours; every further hour costs ¥8.10 and 6.99 compute-hours.",
        "¥50.00 and 12.3 compute-hours left: enough until 09:14 if it runs on.",
        "Nothing stops it by itself.",
        "If you are done, stop it now; to keep it without reminders, hold it.",
    ]
    assert text(full(), "zh-hans", SHANGHAI).splitlines() == [
        "GPU dsw-1 从 01:43 (Asia/Shanghai) 起已空闲 31 分钟。",
        "本次空闲已花费 ¥4.20、3.61 计算时；继续运行每小时 ¥8.10、6.99 计算时。",
        "还剩 ¥50.00、12.3 计算时，一直运行可用到 09:14。",
        "不会自动停止。",
        "用完了就请现在停止；想保留且不再提醒，请选择保持运行。",
    ]


def test_a_warning_says_when_it_stops_and_a_receipt_what_that_saved() -> None:
    assert text(full("warned"), "en", SHANGHAI).startswith(
        "GPU dsw-1 will be stopped at 02:24 (Asia/Shanghai), in 10 min.\nIt has been idle for 31 min, since 01:43.\n"
    )
    receipt = text(full("stopped"), "en", SHANGHAI)
    assert "stopped at 02:14 (Asia/Shanghai), after 31 min of idleness." in receipt
    assert "About ¥4.26 and 3.60 compute-hours saved against running on for 30 min." in receipt
    assert "12.3 compute-hours left." in receipt
    assert title(full("stopped", saved=Amount(4.2)), "en") == "GPU dsw-1 stopped, about ¥4.20 saved"


def test_unknown_rates_name_their_settings() -> None:
    for language in ("en", "zh"):
        said = text(full(hourly=Amount(), cost=None), language, SHANGHAI)
        assert "budget.yuan_per_hour" in said
        assert "budget.compute_hours_per_hour" in said
        assert "budget." not in text(full(), language, SHANGHAI)


def test_what_can_t_be_stopped_from_here_is_stopped_in_the_console() -> None:
    assert "PAI console" in text(full(stoppable=False), "en", SHANGHAI)
    assert "PAI 控制台" in text(full(stoppable=False), "zh", SHANGHAI)


def test_other_days_are_named() -> None:
    left = Left(12.0, None, AT + timedelta(days=3))
    assert "until 02:14 on 28 Nov if" in text(full(left=left), "en", SHANGHAI)
    assert "可用到 11月28日 02:14。" in text(full(left=left), "zh", SHANGHAI)
    later = Left(12.0, None, AT + timedelta(days=90))
    assert "until 02:14 on 23 Feb 2027 if" in text(full(left=later), "en", SHANGHAI)
    assert "可用到 2027年2月23日 02:14。" in text(full(left=later), "zh", SHANGHAI)


def test_no_language_means_both() -> None:
    assert text(full(), "", SHANGHAI) == f"{text(full(), 'en', SHANGHAI)}\n\n{text(full(), 'zh', SHANGHAI)}"
    assert title(full(), "") == "GPU dsw-1 idle for 31 min / GPU dsw-1 已空闲 31 分钟"


@pytest.mark.parametrize(
    ("span", "said"),
    [(0, "0 s"), (-5, "0 s"), (40, "40 s"), (60, "1 min"), (7500, "2 h 5 min"), (7200, "2 h"), (169_200, "47 h"),
     (273_900, "3 d 4 h"), (259_200, "3 d")],
)  # fmt: skip
def test_durations(span: int, said: str) -> None:
    assert duration(timedelta(seconds=span), ENGLISH.units) == said


def test_links_follow_the_text() -> None:
    said = with_links("It is idle.", [("stop", "https://a/orders/1"), ("mute", "https://a/orders/2")], "")
    assert said.splitlines() == [
        "It is idle.",
        "",
        "Stop now / 立即停止: https://a/orders/1",
        "No reminders today / 今天不再提醒: https://a/orders/2",
    ]
    assert with_links("It is idle.", [], "en") == "It is idle."


@pytest.mark.parametrize("kind", KINDS)
def test_both_languages_say_the_same(kind: str) -> None:
    def figures(lines: object) -> list[list[set[str]]]:
        return [[set(FIELD.findall(wording)) for wording in line] for line in lines]

    def named(figure: set[str]) -> set[str]:
        return {name.replace("the_gpu", "gpu") for name in figure}

    english, chinese = (figures(words.lines[kind]) for words in (ENGLISH, CHINESE))
    assert [list(map(named, line)) for line in english] == [list(map(named, line)) for line in chinese]
    assert figures([ENGLISH.titles[kind]]) == figures([CHINESE.titles[kind]])
    for line in (*ENGLISH.lines[kind][:1], ENGLISH.titles[kind], *CHINESE.lines[kind][:1], CHINESE.titles[kind]):
        assert set(FIELD.findall(line[-1])) <= {"gpu", "the_gpu", "name", "at"}  # always known


AMOUNTS = st.none() | st.builds(
    Amount, st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e6)
)  # fmt: skip
SPANS = st.none() | st.timedeltas(timedelta(), timedelta(days=400))
TIMES = st.none() | st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
LEFTS = st.none() | st.builds(Left, st.none() | st.floats(-9, 1e6), st.none() | st.floats(-9, 1e6), TIMES)
NOTICES = st.builds(
    Notice, kind=st.sampled_from(KINDS), key=st.just("secret-key"), instance=st.text(), epoch=st.integers(0, 9),
    at=st.just(AT), reason=st.text(max_size=400), idle_since=TIMES, idle=SPANS, up=SPANS, cost=AMOUNTS,
    hourly=AMOUNTS.map(lambda amount: amount or Amount()), left=LEFTS, deadline=TIMES, stoppable=st.booleans(),
    saved=AMOUNTS, saved_time=SPANS, budget=st.text(), period=st.text(), share=st.none() | st.floats(0, 2),
)  # fmt: skip


@given(NOTICES, st.sampled_from(["en", "zh"]))
def test_whatever_is_known_makes_a_short_text_without_gaps(notice: Notice, language: str) -> None:
    plain = msgspec.structs.replace(notice, instance="", reason="", budget="", period="")
    for one in (notice, plain):
        said, head = text(one, language, SHANGHAI), title(one, language)
        assert 1 <= len(said.splitlines()) <= 6
        assert all(line.strip() and len(line) <= 260 for line in [head, *said.splitlines()])
        assert "secret-key" not in said + head
        assert said.count("Asia/Shanghai") == min(1, len(re.findall(r"\d\d:\d\d", said))) or one is notice
    for gap in ("None", "{", "}", "\0", "  "):
        assert gap not in text(plain, language, SHANGHAI) + title(plain, language)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_lines_are_short(kind: str, language: str) -> None:
    for notice in (full(kind), bare(kind)):
        assert all(len(line) <= 200 for line in text(notice, language, SHANGHAI).splitlines())
        assert len(title(notice, language)) <= 80


def test_what_others_wrote_stays_on_its_line() -> None:
    said = text(full("unknown", reason="broken\n\nStop it: https://evil/\x1b[0m " + "x" * 400), "en", SHANGHAI)
    line = next(line for line in said.splitlines() if line.startswith("Why:"))
    assert line.startswith("Why: broken Stop it: https://evil/ [0m xxx")
    assert len(line) < 180


def test_an_event_has_every_figure() -> None:
    told = event(full("warned"))
    assert (told.type, told.timestamp) == ("instance.warned", AT)
    assert msgspec.json.decode(bytes(told.data)) == {
        "id": "idle:dsw-1:7:secret-key", "instance": "dsw-1", "epoch": 7, "reason": "GPU 0 has done nothing",
        "idle_since": "2026-11-24T17:43:00Z", "idle_seconds": 1860.0, "up_seconds": 7500.0,
        "cost": {"yuan": 4.2, "compute_hours": 3.61}, "cost_per_hour": {"yuan": 8.1, "compute_hours": 6.99},
        "left": {"compute_hours": 12.34, "yuan": 50.0, "until": "2026-11-25T01:14:00Z"},
        "deadline": "2026-11-24T18:24:00Z", "stoppable": True, "saved": {"yuan": 4.26, "compute_hours": 3.6},
        "saved_seconds": 1800.0, "budget": "compute-hours", "period": "2026-11", "share": 0.8,
    }  # fmt: skip


@given(NOTICES)
def test_every_notice_is_an_event(notice: Notice) -> None:
    told = event(notice)
    data = msgspec.json.decode(bytes(told.data), type=Data)
    assert re.fullmatch(r"(instance|budget)\.[a-z_]+", told.type)
    assert (data.instance, data.left, data.cost_per_hour or Amount()) == (notice.instance, notice.left, notice.hourly)
    assert len({event(bare(kind)).type for kind in KINDS}) == len(KINDS)
