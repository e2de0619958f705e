"""The pages behind links, by HTTP: looking changes nothing, the button works once, and nobody else is let in."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import aiohttp
import pytest
from sqlalchemy import select

from bot.clock import now
from bot.config import Server
from bot.money import links
from bot.money.links import LinkOrders, Ticket, signed, tickets
from bot.money.notice import Notice
from bot.web.links import CHINESE, ENGLISH, OrderPages
from bot.web.server import serving
from storage import models, orders
from storage.database import Database
from storage.errors import DatabaseUnavailable

KEY = bytes(range(32))
SHANGHAI = ZoneInfo("Asia/Shanghai")


def ticket(choice: str) -> Ticket:
    notice = Notice(kind="idle", key="k", instance="dsw-1", epoch=7, at=now(), reason="", stoppable=True)
    return next(one for one in tickets(notice, SHANGHAI) if one.choice == choice)


@dataclass
class Site:
    """The service's address, and how often it was told of an order."""

    db: Database
    session: aiohttp.ClientSession
    url: str = ""
    woken: list[datetime] = field(default_factory=list)

    def address(self, choice: str = "stop", instance: str = "dsw-1") -> str:
        return f"{self.url}/orders/{signed(ticket(choice), instance, KEY)}"

    async def get(self, address: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(address, headers=headers) as answer:
            return answer.status, await answer.text()

    async def post(self, address: str, **headers: str) -> tuple[int, str]:
        async with self.session.post(address, headers=headers) as answer:
            return answer.status, await answer.text()

    async def placed(self) -> list[orders.Order]:
        async with self.db.read() as session:
            return list(await orders.waiting(session, "dsw-1"))


@pytest.fixture
async def site(db: Database) -> AsyncIterator[Site]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        one = Site(db, session)
        pages = OrderPages(LinkOrders(db, "dsw-1", KEY, SHANGHAI, lambda: one.woken.append(now())))
        async with serving(pages.routes(), Server(port=0)) as http:
            one.url = http.url
            yield one


async def test_looking_changes_nothing_and_the_button_works_once(site: Site) -> None:
    address = site.address("stop")
    for _ in range(3):  # who prefetches
        status, page = await site.get(address)
        assert status == 200
        assert '<form method="post"><button class="stop">Stop GPU dsw-1 now</button></form>' in page
        async with site.session.head(address) as answer:
            assert answer.status == 200
    assert await site.placed() == []
    status, page = await site.post(address)
    assert (status, "It will be stopped in a moment" in page) == (200, True)
    (order,) = await site.placed()
    assert (order.instance, order.kind, order.placed_by, order.until) == ("dsw-1", "stop", "link", None)
    assert order.key.startswith("link:")
    assert len(site.woken) == 1
    for again in (site.get, site.post):
        status, page = await again(address)
        assert (status, "This was done already" in page, "<form" in page) == (410, True, False)
    assert len(await site.placed()) == len(site.woken) == 1


async def test_it_works_once_whoever_presses_at_the_same_time(site: Site) -> None:
    address = site.address("stop")
    answers = await asyncio.gather(*(site.post(address) for _ in range(12)))
    assert sorted(status for status, _ in answers) == [200] + [410] * 11
    assert len(await site.placed()) == len(site.woken) == 1


async def test_a_hold_counts_from_the_press_and_a_mute_ends_with_the_day(site: Site) -> None:
    _, page = await site.get(site.address("hold-30"))
    assert "<h1>Keep GPU dsw-1 for 30 more minutes?</h1>" in page
    status, page = await site.post(site.address("hold-120"))
    assert (status, "kept for 120 minutes" in page) == (200, True)
    status, page = await site.post(site.address("mute"))
    assert (status, "No reminders until 00:00 (Asia/Shanghai)." in page) == (200, True)
    hold, mute = await site.placed()
    assert (hold.kind, mute.kind) == ("hold", "mute")
    assert abs(hold.until - now() - timedelta(hours=2)) < timedelta(minutes=1)
    local = mute.until.astimezone(SHANGHAI)
    assert (local.hour, local.minute, local.second) == (0, 0, 0)
    assert timedelta() < mute.until - now() <= timedelta(days=1)


async def test_an_expired_link_does_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    address = site.address("hold-30")
    later = now() + timedelta(hours=12, seconds=1)
    monkeypatch.setattr(links, "now", lambda: later)
    for ask in (site.get, site.post):
        status, page = await ask(address)
        assert (status, "This link has expired" in page, "<form" in page) == (410, True, False)
    assert await site.placed() == site.woken == []


FORGERIES: list[Callable[[str], str]] = [
    lambda address: address[:-1],
    lambda address: address[:-2] + ("AA" if address[-2:] != "AA" else "BB"),
    lambda address: re.sub(r"/orders/1", "/orders/2", address),
    lambda address: address + "." + "A" * 3000,
    lambda address: address.rpartition("/")[0] + "/%00%ff%2e%2e",
    lambda address: address.rpartition("/")[0] + "/x",
]


@pytest.mark.parametrize("forged", FORGERIES)
async def test_a_forged_link_is_none(site: Site, forged: Callable[[str], str]) -> None:
    for ask in (site.get, site.post):
        status, page = await ask(forged(site.address()))
        assert (status, "This link is not valid" in page) == (404, True)
    assert await site.placed() == []


async def test_another_instance_s_link_is_none(site: Site) -> None:
    assert (await site.post(site.address("stop", "dsw-2")))[0] == 404
    async with site.db.read() as session:
        assert (await session.scalars(select(models.Order))).all() == []


async def test_nobody_keeps_or_frames_or_follows_the_page(site: Site) -> None:
    async with site.session.get(site.address()) as answer:
        headers, page = answer.headers, await answer.text()
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Robots-Tag"].startswith("noindex")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self'; frame-ancestors 'none'; base-uri 'none'" in policy
    assert not re.search(r"<script|https?://|src=|href=| on\w+=", page)
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize(
    ("wish", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"), ("zh", "zh-CN"), ("en-US,en;q=0.9,zh;q=0.8", "en"), ("", "en"),
     ("de,zh;q=0.2", "zh-CN"), ("zh;q=x", "en"), (",;q=," * 500, "en")],
)  # fmt: skip
async def test_the_page_speaks_the_browser_s_language(site: Site, wish: str, language: str) -> None:
    _, page = await site.get(site.address(), **{"Accept-Language": wish})
    assert f'<html lang="{language}">' in page
    assert f"<h1>{'立即停止 GPU dsw-1？' if language == 'zh-CN' else 'Stop GPU dsw-1 now?'}</h1>" in page


def test_the_page_says_the_same_in_both_languages() -> None:
    assert ENGLISH.keys() == CHINESE.keys()


async def test_an_instance_s_name_is_text(db: Database) -> None:
    name = "<script>alert(1)</script>"
    pages = OrderPages(LinkOrders(db, name, KEY, SHANGHAI, lambda: None))
    async with aiohttp.ClientSession() as session, serving(pages.routes(), Server(port=0)) as http:
        async with session.get(f"{http.url}/orders/{signed(ticket('stop'), name, KEY)}") as answer:
            page = await answer.text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


async def test_a_body_is_neither_needed_nor_kept(site: Site) -> None:
    async with site.session.post(site.address("hold-30"), data=io.BytesIO(bytes(8_000_000))) as answer:
        assert answer.status == 200
    assert len(await site.placed()) == 1


async def test_while_the_database_is_away_nothing_is_promised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise DatabaseUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(site.db, "read", away)
        patch.setattr(site.db, "write", away)
        for ask in (site.get, site.post):
            status, page = await ask(site.address())
            assert (status, "Try again in a minute" in page) == (503, True)
    assert await site.placed() == []
    assert (await site.post(site.address()))[0] == 200
