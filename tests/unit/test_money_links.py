"""Links: what they offer, what they are signed with, and that nothing else is taken for one."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import ConfigError
from bot.money import links
from bot.money.links import KeyDamaged, Ticket, order_key, signed, ticket_of, tickets
from bot.money.notice import Kind, Notice
from bot.money.situation import Reminder, Trouble
from bot.money.wording import with_links

SHANGHAI = ZoneInfo("Asia/Shanghai")
AT = datetime(2026, 11, 24, 18, 14, tzinfo=UTC)  # 02:14 of the 25th in Shanghai
KEY = bytes(range(32))
NOTICE = Notice(kind="idle", key="k", instance="dsw-1", epoch=7, at=AT, reason="", stoppable=True)

TICKETS = st.builds(
    Ticket, st.sampled_from(["stop", "hold", "mute"]), st.integers(0, 10_000), st.integers(0, 2**40),
    st.integers(0, 2**40),
)  # fmt: skip


def choices(notice: Notice) -> list[str]:
    return [ticket.choice for ticket in tickets(notice, SHANGHAI)]


def test_an_idle_instance_is_offered_all_and_a_stop_only_where_it_would_work() -> None:
    assert choices(NOTICE) == ["stop", "hold-30", "hold-120", "mute"]
    assert choices(msgspec.structs.replace(NOTICE, stoppable=False)) == ["hold-30", "hold-120", "mute"]
    for kind in (*Trouble, *Kind, Reminder.DRY_RUN_SAVED):
        assert choices(msgspec.structs.replace(NOTICE, kind=kind)) == ["stop"]
        assert choices(msgspec.structs.replace(NOTICE, kind=kind, stoppable=False)) == []


def test_today_ends_at_midnight_in_the_operators_zone() -> None:
    *rest, mute = tickets(NOTICE, SHANGHAI)
    assert mute.until == datetime(2026, 11, 26, tzinfo=SHANGHAI)
    assert {ticket.until for ticket in rest} == {AT + timedelta(hours=12)}


def test_links_are_given_where_somebody_can_follow_them() -> None:
    assert links.links(NOTICE, KEY, "", SHANGHAI) == []
    made = links.links(NOTICE, KEY, "https://bot.example.com/", SHANGHAI)
    assert [choice for choice, _ in made] == choices(NOTICE)
    assert all(address.startswith("https://bot.example.com/orders/1.") and len(address) < 130 for _, address in made)
    assert made == links.links(NOTICE, KEY, "https://bot.example.com", SHANGHAI)  # by whatever channel, the same
    assert len(set(made)) == 4
    assert with_links("Idle.", made, "en").splitlines()[2] == f"Stop now: {made[0][1]}"


@given(TICKETS, st.text(max_size=40))
def test_a_token_says_what_was_signed(ticket: Ticket, instance: str) -> None:
    token = signed(ticket, instance, KEY)
    assert ticket_of(token, instance, KEY) == ticket
    assert ticket_of(token, instance + "x", KEY) is None
    assert ticket_of(token, instance, KEY[::-1]) is None
    assert all(char.isalnum() or char in "-_." for char in token)


@given(TICKETS, TICKETS)
def test_no_part_of_a_token_fits_another(one: Ticket, other: Ticket) -> None:
    first, second = (signed(ticket, "dsw-1", KEY).split(".") for ticket in (one, other))
    mixed = ticket_of(".".join([*first[:2], second[2]]), "dsw-1", KEY)
    assert mixed == (one if one == other else None)


@given(st.data())
def test_no_changed_bit_is_taken(data: st.DataObject) -> None:
    version, body, mac = signed(Ticket("hold", 30, 7, 2_000_000_000), "dsw-1", KEY).split(".")
    raw = bytearray(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)) + base64.urlsafe_b64decode(mac + "="))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (raw[:-32], raw[-32:]))
    assert ticket_of(".".join([version, *parts]), "dsw-1", KEY) is None


@given(st.text(max_size=300) | st.from_regex(r"1\.[A-Za-z0-9_.=-]{0,150}", fullmatch=True))
def test_nothing_else_is_a_token(token: str) -> None:
    assert ticket_of(token, "dsw-1", KEY) is None


def test_a_token_of_another_version_is_none() -> None:
    token = signed(Ticket("stop", 0, 1, 2_000_000_000), "dsw-1", KEY)
    assert ticket_of("2" + token[1:], "dsw-1", KEY) is None


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "order.key"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(order_key, [path] * 64))
    assert keys == {path.read_bytes()}
    assert len(path.read_bytes()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "order.key").write_bytes(b"short")
    with pytest.raises(KeyDamaged, match=r"delete order\.key"):
        order_key(tmp_path / "order.key")
    with pytest.raises(ConfigError, match="can't be read or made"):
        order_key(tmp_path / "nowhere" / "order.key")
