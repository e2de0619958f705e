"""What a cost report says, in figures and in words."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bot.money.accounts import Terms
from bot.money.cost import NO_BOOKS, Books, CostReport, report, three_lines, usual
from bot.money.cost_words import CHINESE, ENGLISH
from bot.money.quota import Level
from storage.money import Answer, Billed, Quota
from storage.timeline import Price, Segment

SHANGHAI = ZoneInfo("Asia/Shanghai")
START = datetime(2026, 11, 10, 16, tzinfo=UTC)  # midnight in Shanghai
NOW = START + timedelta(days=3, hours=12)
A10 = Price("A10", 10.0, 7.0, "specs")
TERMS = Terms(zone=SHANGHAI)


def seg(state: str, start: float, hours: float, price: Price = A10, session: int = 1) -> Segment:
    """Times in hours."""
    begin = START + timedelta(hours=start)
    return Segment("i", state, begin, begin + timedelta(hours=hours), session, price)


def day_of(price: Price = A10) -> list[Segment]:
    """Three days: in use, idle, stopped."""
    return [
        part
        for day in range(3)
        for part in (
            seg("starting", 24 * day + 8.9, 0.1, price, day), seg("used", 24 * day + 9, 2, price, day),
            seg("idle", 24 * day + 11, 1, price, day), seg("stopped", 24 * day + 12, 20.9, price, day),
        )
    ]  # fmt: skip


def made(segments: list[Segment], terms: Terms = TERMS, *, quotas=(), billed=(), answers=(), by="day",
         first: date = date(2026, 11, 1), now: datetime = NOW) -> CostReport:  # fmt: skip
    return report(Books(segments, quotas, billed, answers), terms, now, by=by, first=first)


def replies(*conversations: str) -> list[Answer]:
    at = START + timedelta(hours=9.5)
    return [Answer(name, at, at + timedelta(minutes=1)) for name in conversations]


def test_a_report_begins_with_the_ledger_and_ends_today():
    found = made(day_of())
    assert (found.first, found.last) == (date(2026, 11, 11), date(2026, 11, 14))
    assert [one.label for one in found.lines] == ["2026-11-11", "2026-11-12", "2026-11-13", "2026-11-14"]
    assert [round(one.minutes.paid) for one in found.lines] == [186, 186, 186, 0]
    assert {one.label for one in found.states} == {"used", "idle", "starting", "stopped"}
    assert found.summary.total.compute_hours == pytest.approx(3 * 3.1 * 7)
    assert sum(one.compute_hours for one in found.lines) == pytest.approx(found.summary.total.compute_hours)


def test_what_was_before_the_first_day_counts_for_the_quota_only():
    answers, bills = replies("a"), [Billed("i", date(2026, 11, 11), 5.0, "bss", NOW)]
    found = made(day_of(), first=date(2026, 11, 13), answers=answers, billed=bills)
    assert found.summary.total.minutes.paid == pytest.approx(186)
    assert (found.summary.replies, found.summary.total.billed, found.talks) == (0, None, ())
    assert found.quota.spent == pytest.approx(3 * 3.1 * 7)


def test_levels_begin_where_the_quota_was_renewed():
    found = made(day_of())
    assert found.levels[0] == Level(datetime(2026, 10, 31, 16, tzinfo=UTC), 250.0)
    assert found.levels[-1].left == pytest.approx(250 - 3 * 3.1 * 7)
    older = [Quota(START - timedelta(days=20), 250.0, 180.0), Quota(START - timedelta(days=5), 250.0, 150.0)]
    assert made(day_of(), quotas=older).levels[0] == Level(datetime(2026, 10, 31, 16, tzinfo=UTC), 180.0)


def test_rates_that_were_learned_are_used_where_the_settings_have_none():
    segments = day_of(Price("A10"))
    quotas = [Quota(START + timedelta(hours=hour), 250.0, 250.0 - 7 * sum(
        part.minutes / 60 for one in segments if one.state != "stopped"
        and (part := one.within(START, START + timedelta(hours=hour)))
    )) for hour in range(72)]  # fmt: skip
    assert made(segments, quotas=quotas).summary.total.compute_hours == pytest.approx(3 * 3.1 * 7, rel=0.01)
    mine = Terms(compute_hours_per_hour=2.0, zone=SHANGHAI)
    assert made(segments, mine).summary.total.compute_hours == pytest.approx(3 * 3.1 * 2)


def test_three_lines_say_what_it_cost_what_was_wasted_and_what_is_left():
    found = made(day_of(), answers=replies("a", "a", "b"))
    assert three_lines(found, "en").splitlines() == [
        "11–14 Nov: 9.3 h of running for 65.1 compute-hours; replies: 3, 21.70 compute-hours each.",
        "Idle for 32 % of that: 3.0 h, 21.0 compute-hours; waking took 0.3 h.",
        "184.9 of 250 compute-hours left until 1 Dec; at the last week's pace they end on 23 Nov.",
    ]
    assert three_lines(found, "zh-CN").splitlines() == [
        "11月11日–14日：开机 9.3 小时，花费 65.1 计算时；3 条回复，平均每条 21.70 计算时。",
        "其中闲置 32%：3.0 小时，21.0 计算时；启动耗时 0.3 小时。",
        "免费额度剩余 184.9 / 250 计算时，12月1日到期；按最近一周的用量，11月23日用完。",
    ]


def test_they_say_what_was_paid_and_billed():
    terms = Terms(compute_hours=40.0, yuan_per_month=100.0, zone=SHANGHAI)
    bills = [Billed("i", date(2026, 11, 12), 3.21, "bss", NOW)]
    first, second, third = three_lines(made(day_of(), terms, billed=bills), "en").splitlines()
    assert first == "11–14 Nov: 9.3 h of running for 40.0 compute-hours + ¥35.86; ¥3.21 billed so far."
    assert second.startswith("Idle for 32 % of that: 3.0 h, 10.6 compute-hours + ¥14.86;")
    assert third == "The 40 compute-hours are spent; new ones come on 1 Dec; ¥64.14 of ¥100 left this month."


def test_at_home_there_are_only_yuan():
    first, _, third = three_lines(made(day_of(Price("home", 1.0))), "en").splitlines()
    assert first == "11–14 Nov: 9.3 h of running for ¥9.30."
    assert third == "No budget is known: budget.* sets one."


def test_without_a_price_no_amount_is_made_up():
    first, second, _ = three_lines(made(day_of(Price("home"))), "en").splitlines()
    assert first == "11–14 Nov: 9.3 h of running for an unknown price (set budget.yuan_per_hour)."
    assert second == "Idle for 32 % of that: 3.0 h; waking took 0.3 h."


def test_an_instance_that_was_stopped_all_the_time():
    segments = [seg("stopped", 0, 24), seg("unknown", 24, 5)]
    first, second, _ = three_lines(made(segments), "en").splitlines()
    assert (first, second) == ("11–14 Nov: it did not run.", "Stopped for 24.0 h; not seen 5.0 h.")
    assert not made(segments).empty


def test_the_disk_is_paid_for_while_the_instance_is_stopped():
    terms, stopped = Terms(yuan_per_month=10.0, disk_yuan_per_hour=0.1, zone=SHANGHAI), [seg("stopped", 0, 24)]
    bills = [Billed("i", date(2026, 11, 11), 2.5, "bss", NOW)]
    first, _, third = three_lines(made(stopped, terms, billed=bills), "en").splitlines()
    assert first == "11–14 Nov: it did not run; ¥2.40 for the disk; ¥2.50 billed so far."
    assert third.endswith("; ¥7.60 of ¥10 left this month.")
    assert three_lines(made(stopped, terms), "zh").startswith("11月11日–14日：未开机；云盘 ¥2.40。")
    total = made(stopped, terms, billed=bills).summary.total
    assert (total.yuan, total.difference) == (pytest.approx(2.4), pytest.approx(0.1))


def test_the_disk_is_told_apart_from_the_running():
    terms = Terms(compute_hours=0.0, disk_yuan_per_hour=0.1, zone=SHANGHAI)
    first, second, _ = three_lines(made(day_of(), terms, answers=replies("a")), "en").splitlines()
    assert first == "11–14 Nov: 9.3 h of running for ¥93.00; ¥7.20 for the disk; replies: 1, ¥100.20 each."
    assert second.startswith("Idle for 32 % of that: 3.0 h, ¥30.00;")
    first, *_ = three_lines(made(day_of(Price("home")), terms), "en").splitlines()
    assert "for an unknown price (set budget.yuan_per_hour); ¥7.20 for the disk" in first


def test_a_trial_that_is_over_is_said_to_be():
    end = START + timedelta(days=1)
    quotas = [Quota(START, 250.0, 200.0, ends_at=end)]
    assert three_lines(made(day_of(), quotas=quotas), "en").endswith("\nThe free trial ended on 12 Nov.")
    spent = [Quota(START, 250.0, 1.0, ends_at=NOW + timedelta(days=1))]
    assert three_lines(made(day_of(), quotas=spent), "en").endswith("\nThe 250 compute-hours are spent.")


def test_nothing_known_is_an_empty_report():
    found = report(NO_BOOKS, TERMS, NOW, by="day", first=date(2026, 11, 1))
    assert found.empty
    assert len(found.lines) == 14
    assert not report(Books((), (), [Billed("i", date(2026, 11, 12), 1.0, "b", NOW)], ()), TERMS, NOW, by="day",
                      first=date(2026, 11, 1)).empty  # fmt: skip


@pytest.mark.parametrize(("by", "first"), [("day", (11, 11)), ("week", (10, 5)), ("month", (6, 1))])
def test_what_is_usual_is_two_weeks_eight_weeks_six_months(by, first):
    today = date(2026, 11, 24)  # a Tuesday
    assert usual(today, by) == date(2026, *first)


@pytest.mark.parametrize(
    ("first", "last", "english", "chinese"),
    [
        (date(2026, 11, 24), date(2026, 11, 24), "24 Nov", "11月24日"),
        (date(2026, 11, 1), date(2026, 11, 24), "1–24 Nov", "11月1日–24日"),
        (date(2026, 10, 25), date(2026, 11, 24), "25 Oct – 24 Nov", "10月25日–11月24日"),
        (date(2025, 11, 1), date(2026, 11, 24), "1 Nov 2025 – 24 Nov 2026", "2025年11月1日–2026年11月24日"),
    ],
)
def test_spans_in_words(first, last, english, chinese):
    assert (ENGLISH.span(first, last), CHINESE.span(first, last)) == (english, chinese)
