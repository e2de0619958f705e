"""The idle decision."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bot.money.policy import Evidence, IdleSpell, Rates, idle_spell
from bot.money.reminders import duration, reminder

START = datetime(2026, 1, 1, tzinfo=UTC)
AFTER = timedelta(minutes=15)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_idle_counts_from_the_last_activity():
    assert idle_spell(Evidence(at(24), START, at(10), busy=False), AFTER) is None
    spell = idle_spell(Evidence(at(25), START, at(10), busy=False), AFTER)
    assert spell == IdleSpell(at(10), timedelta(minutes=15), timedelta(minutes=25))


def test_without_any_message_it_counts_from_the_start():
    assert idle_spell(Evidence(at(16), START, None, busy=False), AFTER).since == START


def test_a_message_from_before_this_span_does_not_make_the_machine_idle_at_once():
    old = START - timedelta(days=1)
    assert idle_spell(Evidence(at(1), START, old, busy=False), AFTER) is None


def test_while_an_answer_is_written_nothing_is_idle():
    assert idle_spell(Evidence(at(90), START, at(1), busy=True), AFTER) is None


@given(st.floats(0, 500), st.floats(0, 500), st.none() | st.floats(0, 400))
def test_one_spell_has_one_key_whenever_it_is_looked_at(first: float, second: float, active: float | None):
    last = None if active is None else at(active)
    spells = [idle_spell(Evidence(at(500 + m), START, last, busy=False), AFTER) for m in (first, second)]
    assert spells[0].key == spells[1].key


def test_the_reminder_says_how_long_what_it_cost_and_what_to_do():
    spell = IdleSpell(START, timedelta(minutes=30), timedelta(hours=2))
    text = reminder(spell, Rates(yuan=10.0, compute_hours=7.0), "en")
    assert "30 min" in text
    assert "¥5.00 and 3.50 compute-hours" in text
    assert "¥20.00 and 14.00 compute-hours" in text
    assert "stop the DSW instance" in text


def test_without_rates_it_says_how_to_set_them_and_chinese_is_an_equal():
    spell = IdleSpell(START, timedelta(minutes=30), timedelta(hours=2))
    assert "budget.yuan_per_hour" in reminder(spell, Rates(), "en")
    assert "空闲 30 分钟" in reminder(spell, Rates(yuan=1.0), "zh-hans")
    both = reminder(spell, Rates(), "")
    assert "Nobody has used" in both
    assert "空闲" in both


def test_durations_read_well():
    assert [duration(timedelta(seconds=s)) for s in (40, 900, 7500)] == ["40 s", "15 min", "2 h 5 min"]
