"""Callbacks against a strict receiver: what each answer leads to, and where they never go."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from bot.clock import now
from bot.delivery import Deliveries, TryLater, Undeliverable
from bot.live import Outcome
from bot.web import callbacks
from bot.web.callbacks import CallbackChannel, CallbackSender, again, opened_callbacks
from bot.web.guard import CallbackUrlRefused, permitted, target
from inference.protocol import Usage
from storage import clients, outbox
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.inbox import Claim
from storage.models import Client
from storage.outbox import Delivery, NewDelivery
from tests.fakes.callback_receiver import DROP, Answer, CallbackReceiver

AT = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = '{"reply":"callback"}'
ANSWER = Outcome("Hi!", "", "stop", Usage(7, 4, 2), AT, AT + timedelta(seconds=1))
FAILURE = Outcome.failure("it never fits", AT)


def claim(message: str = "msg_1", conversation: str = "room", meta: str = ASKED) -> Claim:
    key = f"webhook:demo:{conversation}"
    return Claim(1, message, "webhook:demo", 1, key, "Hello!", meta, None, 0, 1, "test", AT)


def planned(outcome: Outcome = ANSWER, **named: str) -> NewDelivery:
    (delivery,) = CallbackChannel().deliveries(claim(**named), outcome)
    return delivery


def taken(new: NewDelivery | None = None, failures: int = 0) -> Delivery:
    new = new or planned()
    return Delivery(
        1, "dlv_1", "me", None, new.channel, new.destination, new.lane, new.payload, "sending", 1, failures, None
    )  # fmt: skip


async def make_client(db: Database, url: str | None) -> str:
    """The secret of the client `demo`."""
    async with db.write() as session:
        return (await clients.create_client(session, "demo", url, now())).secret


async def change(db: Database, **values: object) -> None:
    async with db.write() as session:
        await session.execute(update(Client).values(**values))


@pytest.fixture
async def receiver(sqlite_db: Database) -> AsyncIterator[CallbackReceiver]:
    """Where the client `demo` wants its callbacks."""
    async with CallbackReceiver(await make_client(sqlite_db, "none yet")) as running:
        await change(sqlite_db, callback_url=running.url)
        yield running
        assert running.violations == []


@pytest.fixture
async def sender(sqlite_db: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CallbackSender]:
    monkeypatch.setattr(callbacks, "TIMEOUT", aiohttp.ClientTimeout(total=1.0))
    async with opened_callbacks(sqlite_db, ["127.0.0.1"]) as opened:
        yield opened


async def test_a_callback_says_what_was_answered(sender: CallbackSender, receiver: CallbackReceiver) -> None:
    assert await sender.send(taken()) is None
    (attempt,) = receiver.attempts
    assert (attempt.id, attempt.body.type, attempt.body.timestamp) == (
        "dlv_1", "reply.completed", ANSWER.finished_at
    )  # fmt: skip
    assert json.loads(attempt.raw)["data"] == {
        "id": "msg_1", "conversation": "room",
        "reply": {
            "text": "Hi!", "finish_reason": "stop",
            "usage": {"prompt_tokens": 7, "cached_tokens": 4, "completion_tokens": 2},
        },
    }  # fmt: skip


async def test_a_callback_says_why_a_message_failed(sender: CallbackSender, receiver: CallbackReceiver) -> None:
    await sender.send(taken(planned(FAILURE)))
    (attempt,) = receiver.attempts
    assert attempt.body.type == "reply.failed"
    assert json.loads(attempt.raw)["data"] == {"id": "msg_1", "conversation": "room", "error": "it never fits"}


def test_one_callback_is_planned_and_only_where_it_was_asked_for() -> None:
    assert planned(conversation="a:b") == NewDelivery("callback", "demo", "webhook:demo:a:b", planned().payload.replace(
        '"room"', '"a:b"'
    ))  # fmt: skip
    assert CallbackChannel().deliveries(claim(meta=""), ANSWER) == []


async def test_every_2xx_is_an_acknowledgement(sender: CallbackSender, receiver: CallbackReceiver) -> None:
    for status in (200, 201, 202, 204, 299):
        receiver.plan.append(Answer(status))
        assert await sender.send(taken()) is None


async def test_everything_else_is_tried_again_and_redirects_are_not_followed(sender, receiver) -> None:
    statuses = [300, 301, 302, 303, 304, 307, 308, 400, 401, 404, 409, 429, 500, 503]
    for status in statuses:
        receiver.plan.append(Answer(status, location="/elsewhere"))
        with pytest.raises(TryLater, match=f"127.0.0.1 answered {status}") as error:
            await sender.send(taken())
        assert 5 <= error.value.after <= 6
    assert [attempt.answered for attempt in receiver.attempts] == statuses


async def test_410_is_the_end(sender: CallbackSender, receiver: CallbackReceiver) -> None:
    receiver.plan.append(Answer(410))
    with pytest.raises(Undeliverable, match="410: it wants no more"):
        await sender.send(taken())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(DROP, "closed the connection without an answer"), (Answer(hang=5), "did not answer within 1 s")],
)
async def test_a_lost_answer_is_tried_again(sender, receiver, answer: Answer, reason: str) -> None:
    receiver.plan.append(answer)
    begun = time.monotonic()
    with pytest.raises(TryLater, match=reason):
        await sender.send(taken())
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("answer", [Answer(slow=5), Answer(body=bytes(5_000_000))])
async def test_what_an_acknowledgement_says_beside_does_not_matter(sender, receiver, answer: Answer) -> None:
    receiver.plan.append(answer)
    begun = time.monotonic()
    assert await sender.send(taken()) is None
    assert time.monotonic() - begun < 4
    assert await sender.send(taken()) is None
    assert len(receiver.attempts) == 2


async def test_not_more_than_a_little_of_an_answer_is_read(sender, receiver) -> None:
    receiver.plan += [Answer(body=bytes(60_000)), Answer(body=bytes(20_000_000))]
    await sender.send(taken())
    assert receiver.cut_short == 0
    await sender.send(taken())
    await receiver.wait_for(lambda: receiver.cut_short)


async def test_who_can_t_be_reached_is_tried_again(
    sender: CallbackSender, sqlite_db: Database, receiver: CallbackReceiver
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        await change(sqlite_db, callback_url=f"http://127.0.0.1:{free.getsockname()[1]}/")
        with pytest.raises(TryLater, match=r"127\.0\.0\.1 can't be reached: Connect call failed"):
            await sender.send(taken())
    await change(sqlite_db, callback_url=receiver.url.replace("http:", "https:"))
    with pytest.raises(TryLater, match=r"can't be reached: .*SSL"):
        await sender.send(taken())
    assert receiver.attempts == []


async def test_what_does_not_speak_http_is_tried_again(sender: CallbackSender, sqlite_db: Database) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        await make_client(sqlite_db, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        with pytest.raises(TryLater, match=r"can't be understood|closed the connection"):
            await sender.send(taken())


async def test_the_schedule_is_that_of_standard_webhooks() -> None:
    minutes = []
    for attempts in range(1, 10):
        verdict = again(attempts - 1, "500")
        assert isinstance(verdict, TryLater)
        assert callbacks.DELAYS[attempts - 1] <= verdict.after <= 1.2 * callbacks.DELAYS[attempts - 1]
        minutes.append(callbacks.DELAYS[attempts - 1] / 60)
    assert minutes == [5 / 60, 5, 30, 120, 300, 600, 840, 1200, 1440]
    assert isinstance(again(9, "500"), Undeliverable)
    assert "after 10 tries" in str(again(9, "500"))


async def test_a_pause_that_is_asked_for_is_kept_within_reason(sender, receiver) -> None:
    soon, past = (format_datetime(now() + timedelta(seconds=seconds), usegmt=True) for seconds in (600, -60))
    for header, least, most in (
        ("120", 120, 120), (" 90 ", 90, 90), ("1", 5, 6), ("9999999", 86400, 86400), ("-7", 5, 6), ("soon", 5, 6),
        ("1e3", 5, 6), ("9" * 400, 5, 86400), ("Fri, 99 Foo 2026 00:00:00 GMT", 5, 6), (soon, 590, 600), (past, 5, 6),
    ):  # fmt: skip
        receiver.plan.append(Answer(429, retry_after=header))
        with pytest.raises(TryLater) as error:
            await sender.send(taken())
        assert least <= error.value.after <= most, header


async def test_each_try_has_the_same_id_and_body_and_a_timestamp_of_its_own(
    sender: CallbackSender, receiver: CallbackReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.plan.append(Answer(500))
    with pytest.raises(TryLater):
        await sender.send(taken())
    later = now() + timedelta(seconds=200)
    monkeypatch.setattr(callbacks, "now", lambda: later)
    await sender.send(taken(failures=1))
    first, second = receiver.attempts
    assert (first.id, first.raw) == (second.id, second.raw)


async def test_a_rotated_secret_and_a_new_url_count_from_the_next_try(sender, receiver, sqlite_db: Database) -> None:
    await sender.send(taken())
    async with sqlite_db.write() as session:
        receiver.secret = (await clients.rotate(session, "demo", now())).secret
    await sender.send(taken())
    async with CallbackReceiver(receiver.secret) as elsewhere:
        await change(sqlite_db, callback_url=elsewhere.url)
        await sender.send(taken())
        assert (len(receiver.attempts), len(elsewhere.attempts)) == (2, 1)


async def test_a_disabled_client_s_callbacks_wait(sender, receiver, sqlite_db: Database) -> None:
    await change(sqlite_db, disabled_at=now())
    with pytest.raises(TryLater, match="client enable demo") as error:
        await sender.send(taken(failures=98))
    assert error.value.after == 600
    await change(sqlite_db, disabled_at=None)
    await sender.send(taken())
    assert len(receiver.attempts) == 1


async def test_what_can_t_be_signed_or_addressed_is_given_up(sender, receiver, sqlite_db: Database) -> None:
    for column, value, reason in (
        ("secret", "whsec_QQ==", "client rotate"), ("secret", "whsec_é", "client rotate"),
        ("secret", "", "client rotate"), ("callback_url", "not a URL", "looks like https"),
        ("callback_url", None, "no callback URL"), ("name", "gone", "no callback URL"),
    ):  # fmt: skip
        await change(sqlite_db, **{column: value})
        with pytest.raises(Undeliverable, match=reason):
            await sender.send(taken())
    assert receiver.attempts == []


async def test_a_database_that_is_away_gives_nothing_up(sender, sqlite_db: Database, monkeypatch) -> None:
    @contextlib.asynccontextmanager
    async def away() -> AsyncIterator[None]:
        raise DatabaseUnavailable
        yield

    monkeypatch.setattr(sqlite_db, "read", away)
    with pytest.raises(TryLater) as error:
        await sender.send(taken(failures=98))
    assert error.value.after


@contextlib.asynccontextmanager
async def emptying(db: Database, sender: CallbackSender, *new: NewDelivery) -> AsyncIterator[None]:
    """The outbox at work on these deliveries."""
    async with db.write() as session:
        await outbox.add(session, new, now())
    deliveries = Deliveries(db, owner="test")
    deliveries.senders["callback"] = sender
    async with asyncio.TaskGroup() as group:
        group.create_task(deliveries.run())
        yield
        deliveries.close()


async def test_order_holds_within_a_conversation_and_none_waits_for_another(
    sender, receiver, sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "DELAYS", (0.2,) * 9)
    monkeypatch.setattr("bot.delivery.POLL", 0.05)
    receiver.plan += [Answer(500), DROP, Answer(500)]
    new = [planned(message=f"msg_{n}", conversation="ab"[n % 2]) for n in range(8)]
    async with emptying(sqlite_db, sender, *new):
        await receiver.wait_for(lambda: len(receiver.acknowledged) == 8)
    assert receiver.order("a") == ["msg_0", "msg_2", "msg_4", "msg_6"]
    assert receiver.order("b") == ["msg_1", "msg_3", "msg_5", "msg_7"]
    assert [attempt.answered for attempt in receiver.attempts].count(200) == 8
    async with sqlite_db.read() as session:
        assert await outbox.unfinished(session) == []


class Once:
    """A way out that must not be tried twice blindly."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, delivery: Delivery) -> str | None:
        self.sent.append(delivery.payload)
        return None

    def repeatable(self, _delivery: Delivery) -> bool:
        return False


async def test_what_was_claimed_without_being_told_so_was_never_sent(
    sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks while a claim is being committed."""
    monkeypatch.setattr("bot.delivery.POLL", 0.02)
    once, deliveries = Once(), Deliveries(sqlite_db, owner="test")
    deliveries.senders["once"] = once
    due = deliveries._due

    async def untold() -> list[Delivery]:
        if claimed := await due():
            deliveries._due = due
            raise DatabaseUnavailable(claimed[0].payload)
        return []

    deliveries._due = untold
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(deliveries.run())
        await asyncio.sleep(0.1)  # what the last process of this name left behind is settled
        async with sqlite_db.write() as session:
            await outbox.add(session, [NewDelivery("once", "1", "1", "hello")], now())
        while not once.sent:
            await asyncio.sleep(0.01)
        deliveries.close()
    assert once.sent == ["hello"]
    async with sqlite_db.read() as session:
        assert await outbox.unfinished(session) == []


async def test_an_endpoint_that_hangs_delays_nobody_else(sender, receiver, sqlite_db: Database) -> None:
    async with sqlite_db.write() as session:
        other = (await clients.create_client(session, "other", receiver.url, now())).secret
    async with CallbackReceiver(other) as slow:
        slow.respond = lambda _body: Answer(hang=5)
        async with sqlite_db.write() as session:
            await session.execute(update(Client).where(Client.name == "other").values(callback_url=slow.url))
        hanging = [
            NewDelivery("callback", "other", f"webhook:other:{n}", planned(message=f"msg_x{n}").payload)
            for n in range(20)
        ]
        async with emptying(sqlite_db, sender, *hanging, planned()):
            await receiver.wait_for(lambda: receiver.acknowledged, timeout=3)


async def test_nothing_is_posted_to_where_callbacks_may_not_go(
    receiver: CallbackReceiver, sqlite_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads_to = {
        "one.example": ["127.0.0.1"], "both.example": ["::1", "127.0.0.1"], "mapped.example": ["::ffff:127.0.0.1"],
        "metadata.example": ["100.100.100.200"], "allowed.example": ["100.100.100.200"],
    }  # fmt: skip

    def resolve(host: str, port: int, *_: object, **__: object) -> list:
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (families[":" in ip], socket.SOCK_STREAM, 6, "", (ip, port, 0, 0)[: 4 if ":" in ip else 2])
            for ip in leads_to[host]
        ]

    port = receiver.url.split(":")[-1]
    literal = ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "①②⑦.0.0.1", "[64:ff9b::7f00:1]")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with opened_callbacks(sqlite_db, ["allowed.example"]) as sender:
        for host in (*literal, *leads_to):
            await change(sqlite_db, callback_url=f"https://{host}:{port}")
            cure = "never go there" if host == "allowed.example" else "webhooks.allow_hosts"
            with pytest.raises(Undeliverable, match=cure):
                await sender.send(taken())
        for host in ("2130706433", "127.1", "0177.0.0.1", "0x7f.1"):
            leads_to[host] = ["127.0.0.1"]
            await change(sqlite_db, callback_url=f"https://{host}:{port}")
            with pytest.raises(Undeliverable):
                await sender.send(taken())
    assert receiver.attempts == []


async def test_an_allowed_name_may_lead_inside(receiver: CallbackReceiver, sqlite_db: Database) -> None:
    await change(sqlite_db, callback_url=receiver.url.replace("127.0.0.1", "localhost"))
    async with opened_callbacks(sqlite_db, []) as sender:
        with pytest.raises(Undeliverable, match=r"name localhost in webhooks\.allow_hosts"):
            await sender.send(taken())
    async with opened_callbacks(sqlite_db, ["LocalHost"]) as sender:
        await sender.send(taken())
    assert len(receiver.attempts) == 1


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "http+unix://x/", "https://",
        "https:///x", "https://u:p@example.com/", "https://:p@example.com/", "http://example.com/",
        "https://exa mple.com/", "https://example.com/\r\nx", "https://example.com:99999/", "https://a..b/",
        "https://exa\\mple.com/", "https://%0d/", "https://[::1/", "https://" + "a" * 64 + ".com/",
        "https://example.com/" + "a" * 2000, "https://10.0.0.1/", "https://[fe80::1%25eth0]/", "https://[::1]:8080/",
        "https://100.100.100.200/latest/meta-data", "http://169.254.169.254/",
    ],
)  # fmt: skip
def test_a_bad_url_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(CallbackUrlRefused) as error:
        target(url, ["169.254.169.254", "100.100.100.200"])
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("url", "allowed", "trusted"),
    [
        ("https://example.com/replies?token=1", [], False), ("https://1.1.1.1/", [], False),
        ("https://[2606:4700::1111]/", [], False), ("https://例子.cn/", [], False),
        ("https://例子.cn/", ["例子.cn"], True), ("https://例子.cn/", ["xn--fsqu00a.cn"], True),
        ("http://Example.com:80/", ["example.com"], True), ("https://example.com/", ["EXAMPLE.COM"], True),
        ("http://example.com/", ["example.com:80"], True), ("https://example.com/", ["example.com:80"], False),
        ("http://127.0.0.1:9/", ["127.0.0.1:9"], True), ("http://[::1]:9/", ["::1"], True),
        ("http://[::1]:9/", ["[::1]:9"], True), ("https://sub.example.com/", ["example.com"], False),
        ("https://example.com./", ["example.com"], False),
    ],
)  # fmt: skip
def test_a_good_url_is_trusted_only_by_name(url: str, allowed: list[str], trusted: bool) -> None:
    assert target(url, allowed).trusted == trusted


METADATA = ["169.254.169.254", "169.254.0.23", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"]
INTERNAL = [
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "172.16.0.1", "192.0.0.8", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%2", "fec0::1", "fc00::1", "fd12::1", "ff02::1",
    "100::1", "2001:db8::1", "3fff::1", "2001:2::1", "2001::1", "5f00::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1",
    "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "192.167.1.1", "2606:4700::1111"]


@pytest.mark.parametrize("address", METADATA)
def test_credentials_are_never_asked_for(address: str) -> None:
    assert not permitted(address, trusted=False)
    assert not permitted(address, trusted=True)


@pytest.mark.parametrize("address", INTERNAL)
def test_what_is_not_public_is_not_dialled(address: str) -> None:
    assert not permitted(address, trusted=False)


@pytest.mark.parametrize("address", [*PUBLIC, "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_what_is_public_is_dialled(address: str) -> None:
    assert permitted(address, trusted=False)


SPECIAL = [
    IPv4Network(name)
    for name in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24",
        "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
        "240.0.0.0/4",
    )
]  # fmt: skip
SPECIAL_ADDRESS = st.sampled_from(SPECIAL).flatmap(
    lambda network: st.integers(int(network[0]), int(network[-1])).map(IPv4Address)
)
DISGUISES = (  # where in an IPv6 address an IPv4 address may hide, and what stands before it
    (0xFFFF << 32, 0), (0x64FF9B << 96, 0), (0, 0), (0x2002 << 112, 80),
)  # fmt: skip


@given(SPECIAL_ADDRESS, st.sampled_from(DISGUISES), st.booleans())
def test_a_disguise_changes_nothing(address: IPv4Address, disguise: tuple[int, int], trusted: bool) -> None:
    prefix, shift = disguise
    worn = IPv6Address(prefix | int(address) << shift)
    assert permitted(str(worn), trusted=trusted) == permitted(str(address), trusted=trusted)
    assert not permitted(str(address), trusted=False)


@given(st.integers(0, 2**128 - 1).map(IPv6Address) | st.integers(0, 2**32 - 1).map(IPv4Address))
def test_trust_only_adds(address: IPv4Address | IPv6Address) -> None:
    assert permitted(str(address), trusted=True) or not permitted(str(address), trusted=False)
