"""The cost report as a picture."""

import random
import shutil
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from matplotlib import get_data_path

from bot.money import chart
from bot.money.accounts import Terms
from bot.money.chart import draw
from bot.money.cost import NO_BOOKS, Books, CostReport, report
from storage.timeline import Price, Segment

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 24, 13, tzinfo=UTC)
A10 = Price("A10", 9.74, 7.0, "specs")


def life(hours: float = 24 * 24) -> list[Segment]:
    chance = random.Random(1)
    found, start = [], NOW - timedelta(hours=hours)
    for session in range(1000):
        for state, minutes in (("stopped", 900), ("starting", 4), ("used", 60), ("idle", 30), ("unwatched", 9)):
            end = min(start + timedelta(minutes=minutes * chance.uniform(0.5, 1.5)), NOW)
            if end > start:
                found.append(Segment("i", state, start, end, session, A10))
            start = end
    return found


def made(segments: list[Segment], *, by="day", first: date = date(2026, 11, 11), quotas=(), compute_hours: float = 250,
         price: Price = A10) -> CostReport:  # fmt: skip
    parts = [Segment(one.instance, one.state, one.started_at, one.ended_at, one.session, price) for one in segments]
    terms = Terms(compute_hours=compute_hours, zone=SHANGHAI)
    return report(Books(parts, quotas, (), ()), terms, NOW, by=by, first=first)


def texts(svg: bytes) -> list[str]:
    return [text for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
            if (text := "".join(one.itertext()).strip())]  # fmt: skip


def colours(svg: bytes) -> set[str]:
    return {colour for colour in chart.COLOURS if colour.lower() in svg.decode().lower()}


Fonts = Callable[..., None]


@pytest.fixture
def fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fonts]:
    """Makes these files the machine's only fonts; none at first."""
    found: list[str] = []
    monkeypatch.setattr(chart, "findSystemFonts", lambda: found)
    chart.chinese_font.cache_clear()
    yield lambda *files: found.extend(map(str, files))
    chart.chinese_font.cache_clear()


def test_a_png_is_sharp_on_a_phone():
    found = draw(made(life()), "en", "png")
    assert found.startswith(b"\x89PNG")
    assert struct.unpack(">II", found[16:24]) == (2400, 1800)
    assert len(found) < 500_000


def test_an_svg_says_what_it_shows():
    shown = made(life(), compute_hours=440)
    found = draw(shown, "en", "svg")
    written, total = texts(found), shown.summary.total
    assert (
        f"11–24 Nov: {total.minutes.paid / 60:.1f} h of running for {total.compute_hours:.1f} compute-hours" in written
    )
    assert f"used {total.minutes.used / 60:.1f} h" in written
    assert f"idle {total.minutes.idle / 60:.1f} h" in written
    assert f"stopped {total.minutes.stopped / 60:.0f} h" in written
    assert f"{shown.lines[0].minutes.paid / 60:.1f}" in written  # above its bar
    assert f"Compute-hours left: {440 - shown.quota.spent:.1f} of 440" in written
    assert any(text.startswith("at the last week's pace they end on ") for text in written)
    assert {"12 Nov", "24 Nov", "1 Nov", "1 Dec", "440"} <= set(written)
    assert colours(found) == set(chart.COLOURS)


def test_an_svg_is_the_same_in_each_run_and_says_nothing_of_when_it_was_made():
    shown = made(life())
    found = draw(shown, "en", "svg")
    assert draw(shown, "en", "svg") == found
    assert b"<dc:date>" not in found
    assert b"Matplotlib" not in found


def test_a_quota_that_is_spent_is_said_to_be():
    written = texts(draw(made(life(), compute_hours=50), "en", "svg"))
    assert any(text.startswith("used up on ") for text in written)
    assert "Compute-hours left: 0.0 of 50" in written


def test_a_quota_that_lasts_is_said_to_last():
    assert "at the last week's pace they last" in texts(draw(made(life(), compute_hours=2000), "en", "svg"))


def test_of_a_quota_that_was_only_just_seen_nothing_is_foretold():
    written = texts(draw(made(life(hours=20)), "en", "svg"))
    assert any(text.startswith("Compute-hours left") for text in written)
    assert not any("pace" in text for text in written)


def test_without_a_quota_there_are_only_bars():
    written = texts(draw(made(life(), price=Price("home", 1.0)), "en", "svg"))
    assert not any("Compute-hours left" in text for text in written)
    assert any(text.startswith("used ") for text in written)


@pytest.mark.parametrize(
    ("by", "first", "label"), [("week", (10, 1), "W48"), ("month", (9, 1), "Nov"), ("day", (10, 1), "24 Nov")]
)
def test_bars_are_of_whatever_period(by, first, label):
    assert label in texts(draw(made(life(60 * 24), by=by, first=date(2026, *first)), "en", "svg"))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.usefixtures("fonts")
def test_nothing_to_show_is_said(language):
    empty = report(NO_BOOKS, Terms(zone=SHANGHAI), NOW, by="day", first=date(2026, 11, 11))
    assert texts(draw(empty, language, "svg")) == ["No figures yet"]
    assert draw(empty, language, "png").startswith(b"\x89PNG")


@pytest.mark.usefixtures("fonts")
def test_where_no_font_has_chinese_it_is_english_instead_of_boxes():
    assert chart.chinese_font() is None
    shown = made(life())
    assert draw(shown, "zh", "svg") == draw(shown, "en", "svg")


def test_where_a_font_has_chinese_it_is_chinese(fonts: Fonts, tmp_path: Path):
    """The font that ships with matplotlib for characters that no other has stands for one with Chinese."""
    wrong, right = tmp_path / "simhei.ttf", tmp_path / "wqy-microhei.ttf"
    shutil.copy(get_data_path() + "/fonts/ttf/DejaVuSans.ttf", wrong)
    shutil.copy(get_data_path() + "/fonts/ttf/LastResortHE-Regular.ttf", right)
    fonts(wrong, right)
    assert chart.chinese_font() == str(right)
    shown = made(life())
    written = texts(draw(shown, "zh-CN", "svg"))
    assert f"剩余计算时：{250 - shown.quota.spent:.1f} / 250" in written
    assert any(text.startswith("11月11日–24日：开机") for text in written)
    assert {"11/12", "11/24", "12/1"} <= set(written)
    assert draw(shown, "zh", "png").startswith(b"\x89PNG")


def test_several_threads_may_draw_at_once():
    reports = [made(life(24 * days)) for days in (5, 10, 15)]
    alone = [draw(one, "en", "svg") for one in reports]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(draw, reports, ["en"] * 3, ["svg"] * 3)) == alone
