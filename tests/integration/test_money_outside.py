"""Notices through apprise to receivers that really listen: what arrives, what each answer leads to, what is kept."""

import asyncio
import io
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import pytest
from aiohttp import web

from bot.clock import now
from bot.delivery import Deliveries, TryLater, Uncertain, Undeliverable
from bot.money import outside
from bot.money.outside import Payload, UrlRefused, opened_apprise, receiver_name
from storage import outbox
from storage.database import Database
from storage.outbox import Delivery

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

NOTICE = Payload("GPU idle for 31 min / GPU 已空闲 31 分钟", "It costs ¥4.20.\n已花费 ¥4.20。", "warning")


@dataclass
class Receiver:
    """Notes what is posted to it, and answers with `status` after `hang` seconds; 0: it hangs up."""

    port: int = 0
    status: int = 200
    hang: float = 0
    body: str = "{}"
    posts: list[tuple[str, dict]] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.posts.append((request.path, await request.json()))
        await asyncio.sleep(self.hang)
        if not self.status:
            request.transport.close()
        return web.Response(status=self.status or 200, text=self.body)

    def url(self, schema: str = "json", rest: str = "/s3cret-path?+X-Key=s3cret-key") -> str:
        return f"{schema}://127.0.0.1:{self.port}{rest}"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.port = runner.addresses[0][1]
    yield one
    await runner.cleanup()


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def taken(channel: outside.AppriseChannel, payload: Payload = NOTICE) -> Delivery:
    (new,) = channel.planned(payload)
    return Delivery(
        1, "dlv_1", "me", None, new.channel, new.destination, new.lane, new.payload, "sending", 1, 0, None
    )  # fmt: skip


async def test_a_notice_arrives_as_it_was_written(receiver: Receiver) -> None:
    channel = await opened_apprise([receiver.url()])
    assert await channel.send(taken(channel)) is None
    ((path, post),) = receiver.posts
    assert path == "/s3cret-path"
    assert (post["title"], post["message"], post["type"]) == (NOTICE.title, NOTICE.body, "warning")


async def test_ntfy_gets_the_topic_the_title_and_the_text(receiver: Receiver) -> None:
    channel = await opened_apprise([receiver.url("ntfy", "/s3cret-topic")])
    assert await channel.send(taken(channel)) is None
    ((_, post),) = receiver.posts
    assert (post["topic"], post["title"], post["message"]) == ("s3cret-topic", NOTICE.title, NOTICE.body)


async def test_dingtalk_gets_it_as_text(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = await opened_apprise(["dingtalk://s3cretsign@s3crettoken"])
    plugin = sys.modules["apprise.plugins.dingtalk"].NotifyDingTalk
    monkeypatch.setattr(plugin, "notify_url", f"http://127.0.0.1:{receiver.port}/robot/send?access_token={{token}}")
    assert await channel.send(taken(channel)) is None
    ((path, post),) = receiver.posts
    assert path == "/robot/send"
    assert (post["msgtype"], post["text"]) == ("text", {"content": f"{NOTICE.title}\r\n{NOTICE.body}"})


async def test_the_outbox_holds_no_address(receiver: Receiver) -> None:
    urls = [receiver.url(), receiver.url("ntfy", "/s3cret-topic"), "dingtalk://s3cretsign@s3crettoken"]
    channel = await opened_apprise(urls)
    planned = channel.planned(NOTICE)
    assert [new.destination.partition("-")[0] for new in planned] == ["json", "ntfy", "dingtalk"]
    assert len({new.lane for new in planned}) == 3
    for new in planned:
        assert "s3cret" not in repr(new)
        assert msgspec.json.decode(new.payload, type=Payload) == NOTICE
    again = await opened_apprise(urls[::-1])
    assert {new.destination for new in again.planned(NOTICE)} == {new.destination for new in planned}
    assert receiver_name("x" * 30 + ":") == "x" * 20 + receiver_name("x" * 30 + ":")[20:]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("schema", ["json", "ntfy"])
async def test_who_refuses_is_tried_again(receiver: Receiver, status: int, schema: str) -> None:
    receiver.status, receiver.body = status, '{"error":"Socket Exception: timed out"}'
    channel = await opened_apprise([receiver.url(schema)])
    with pytest.raises(TryLater, match=rf"{schema}-\w+ answered {status}") as error:
        await channel.send(taken(channel))
    assert error.value.after is None  # the outbox's own schedule, which has an end
    assert "s3cret" not in str(error.value)
    assert len(receiver.posts) == 1


async def test_who_can_t_be_reached_is_tried_again() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for url in (f"json://127.0.0.1:{free.getsockname()[1]}/", "json://nowhere.invalid/"):
            channel = await opened_apprise([url])
            with pytest.raises(TryLater, match="can't be reached"):
                await channel.send(taken(channel))


async def test_a_failure_that_says_nothing_is_not_repeated(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = await opened_apprise([receiver.url()])
    plugin = sys.modules["apprise.plugins.custom_json"].NotifyJSON
    monkeypatch.setattr(plugin, "send", lambda *_args, **_kwargs: False)
    with pytest.raises(Uncertain, match="nobody knows whether json-"):
        await channel.send(taken(channel))


async def test_a_lost_connection_is_not_repeated(receiver: Receiver) -> None:
    receiver.status = 0
    channel = await opened_apprise([receiver.url(rest="/?retry=3&optional=yes")])
    with pytest.raises(Uncertain, match="the connection to json-"):
        await channel.send(taken(channel))
    assert len(receiver.posts) == 1


async def test_a_receiver_that_hangs_is_not_waited_for_and_holds_nobody_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "TIMEOUT", 0.5)
    receiver.hang = 1.5
    channel = await opened_apprise([receiver.url()])
    gaps: list[float] = []

    async def pulse() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    pulses = asyncio.create_task(pulse())
    begun = time.monotonic()
    with pytest.raises(Uncertain, match=r"did not answer within 0.5 s"):
        await channel.send(taken(channel))
    assert time.monotonic() - begun < 1.4
    pulses.cancel()
    assert len(gaps) > 5
    await asyncio.sleep(1.2)  # the thread that still waits ends before its receiver does


async def test_what_some_targets_got_is_not_repeated(receiver: Receiver) -> None:
    answers = iter([200, 500])

    async def by_turns(request: web.Request) -> web.StreamResponse:
        receiver.posts.append((request.path, await request.json()))
        return web.Response(status=next(answers), text="{}")

    receiver_app = web.Application()
    receiver_app.router.add_post("/{path:.*}", by_turns)
    runner = web.AppRunner(receiver_app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        channel = await opened_apprise([f"ntfy://127.0.0.1:{runner.addresses[0][1]}/one/two"])
        with pytest.raises(Uncertain, match="some of its targets"):
            await channel.send(taken(channel))
        assert len(receiver.posts) == 2
    finally:
        await runner.cleanup()


async def test_a_receiver_that_is_gone_or_a_notice_that_is_too_late_is_given_up(receiver: Receiver) -> None:
    old, new = await opened_apprise([receiver.url()]), await opened_apprise([])
    with pytest.raises(Undeliverable, match=r"alerts\.urls no longer has this receiver"):
        await new.send(taken(old))
    late = msgspec.structs.replace(NOTICE, until=now() - timedelta(seconds=1))
    with pytest.raises(Undeliverable, match="too late"):
        await old.send(taken(old, late))
    assert receiver.posts == []
    assert await old.send(taken(old, msgspec.structs.replace(NOTICE, until=now() + timedelta(minutes=1)))) is None


@pytest.mark.parametrize(
    ("urls", "which"),
    [(["s3cret"], "1st"), (["json://localhost", "nope://s3cret/x"], "2nd"),
     (["json://localhost"] * 3 + ["dingtalk://"], "4th"), (["https://example.com/s3cret"], "1st")],
)  # fmt: skip
async def test_what_is_no_address_is_refused_by_its_position(urls: list[str], which: str) -> None:
    with pytest.raises(UrlRefused) as error:
        await opened_apprise(urls)
    assert str(error.value) == (f"alerts.urls: the {which} is not an apprise URL; see https://appriseit.com/services/")
    assert error.value.__cause__ is None


async def test_nothing_of_apprise_s_log_reaches_ours(receiver: Receiver) -> None:
    ours = io.StringIO()
    handler = logging.StreamHandler(ours)
    logging.getLogger().addHandler(handler)
    try:
        receiver.status = 500
        channel = await opened_apprise([receiver.url("ntfy", "/s3cret-topic")])
        with pytest.raises(TryLater):
            await channel.send(taken(channel))
        with pytest.raises(UrlRefused):
            await opened_apprise(["nope://s3cret/x"])
        logging.getLogger("bot").warning("heard")
        assert ours.getvalue() == "heard\n"
    finally:
        logging.getLogger().removeHandler(handler)


async def test_through_the_outbox_once_and_after_a_crash_not_again(db: Database, receiver: Receiver) -> None:
    channel = await opened_apprise([receiver.url()])
    async with db.write() as session:
        await outbox.add(session, [*channel.planned(NOTICE), *channel.planned(NOTICE)], now())
    async with db.write() as session:  # a process that dies while it sends the first
        await outbox.claim_due(session, "gateway", now(), timedelta(minutes=2), channels=["apprise"], limit=1)
    deliveries = Deliveries(db, owner="gateway")
    deliveries.senders["apprise"] = channel
    running = asyncio.create_task(deliveries.run())
    async with asyncio.timeout(10):
        while not receiver.posts:
            await asyncio.sleep(0.02)
    deliveries.close()
    await running
    async with db.read() as session:
        (left,) = await outbox.unfinished(session)
    assert left.state == "uncertain"
    assert len(receiver.posts) == 1


async def test_apprise_is_loaded_only_where_it_is_wanted() -> None:
    code = "import sys; import bot.money.outside; sys.exit('apprise' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
