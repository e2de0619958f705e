"""Callbacks: a reply goes to the client's own URL, signed, until it is acknowledged or given up.

As Standard Webhooks 1.0 says: every try has the same webhook-id and body, a timestamp and a signature of its own.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import asyncio
import base64
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import mktime_tz, parsedate_tz
from typing import Literal

import aiohttp
import msgspec
from msgspec import UNSET
from standardwebhooks import Webhook

from bot.clock import now
from bot.delivery import TryLater, Undeliverable
from bot.live import LiveTurn, Outcome
from bot.web.guard import Blocked, CallbackUrlRefused, Target, connector, refusal, target
from bot.web.webhooks import MessageReport, ReplyReport, UsageReport, room, wants_callback
from storage import clients
from storage.clients import Endpoint
from storage.database import Database
from storage.errors import StorageError
from storage.inbox import Claim
from storage.outbox import Delivery, NewDelivery

CHANNEL = "callback"
DELAYS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)  # seconds after each failure; then it is given up
LONGEST_PAUSE = 86400.0  # seconds that a receiver may ask for
DISABLED_PAUSE = 600.0
DATABASE_PAUSE = 5.0
TIMEOUT = aiohttp.ClientTimeout(total=20.0)
MOST_READ = 64 * 1024
SHORTEST_KEY = 24  # bytes


class Callback(msgspec.Struct, frozen=True):
    """What is posted."""

    type: Literal["reply.completed", "reply.failed"]
    timestamp: datetime
    data: MessageReport


class CallbackChannel:
    """The channel "webhook" of the turns: it plans a callback where the client has asked for one."""

    async def show(self, _live: LiveTurn) -> None:
        """A callback says how it ended; who waits or streams follows the turn by himself."""

    def deliveries(self, claim: Claim, outcome: Outcome) -> list[NewDelivery]:
        if not wants_callback(claim.meta):
            return []
        payload = msgspec.json.encode(_callback(claim, outcome)).decode()
        client = claim.source.partition(":")[2]
        return [NewDelivery(channel=CHANNEL, destination=client, lane=claim.conversation_key, payload=payload)]


def _callback(claim: Claim, outcome: Outcome) -> Callback:
    conversation = room(claim.conversation_key)
    if outcome.finish_reason == "error":
        failed = MessageReport(claim.public_id, conversation, error=outcome.text)
        return Callback("reply.failed", outcome.finished_at, failed)
    usage = UsageReport(outcome.usage.prompt, outcome.usage.cached, outcome.usage.completion)
    reply = ReplyReport(outcome.text, outcome.finish_reason, usage)
    return Callback("reply.completed", outcome.finished_at, MessageReport(claim.public_id, conversation, UNSET, reply))


class CallbackSender:
    """The outbox's way to the clients. `opened_callbacks` makes it."""

    def __init__(self, db: Database, allow_hosts: Sequence[str], guarded: aiohttp.ClientSession,
                 trusted: aiohttp.ClientSession) -> None:  # fmt: skip
        self._db = db
        self._allow_hosts = allow_hosts
        self._guarded = guarded
        self._trusted = trusted

    def repeatable(self, _delivery: Delivery) -> bool:
        """The receiver knows a repetition by its webhook-id."""
        return True

    async def send(self, delivery: Delivery) -> str | None:
        """Posts once; what is not acknowledged is tried again."""
        endpoint = await self._endpoint(delivery)
        try:
            where = target(endpoint.url, self._allow_hosts)
            status, pause = await self._post(where, delivery, endpoint.secret)
        except CallbackUrlRefused as error:
            raise Undeliverable(str(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise again(delivery.failures, _reason(error, where)) from error
        if status == 410:
            raise Undeliverable(f"{where.url.host} answered 410: it wants no more callbacks")
        if not 200 <= status < 300:
            raise again(delivery.failures, f"{where.url.host} answered {status}", pause)
        return None

    async def _endpoint(self, delivery: Delivery) -> Endpoint:
        """Looked up at each try: it may have been changed since the last."""
        try:
            async with self._db.read() as session:
                endpoint = await clients.endpoint(session, delivery.destination)
        except StorageError as error:
            raise TryLater(str(error), DATABASE_PAUSE, failed=False) from error
        if endpoint is None:
            raise Undeliverable(f"the client {delivery.destination} has no callback URL")
        if endpoint.disabled:
            cure = f"the client is disabled: `dswbot client enable {delivery.destination}`"
            raise TryLater(cure, DISABLED_PAUSE, failed=False)
        return endpoint

    async def _post(self, where: Target, delivery: Delivery, secret: str) -> tuple[int, float]:
        """The status of the answer and the pause that it asks for, in seconds."""
        at = now()
        headers = signed(secret, delivery.public_id, at, delivery.payload)
        session = self._trusted if where.trusted else self._guarded
        try:
            async with session.post(
                where.url, data=delivery.payload.encode(), headers=headers, allow_redirects=False
            ) as answer:
                await _read(answer)
                return answer.status, _pause(answer.headers.get("Retry-After", ""), at)
        except aiohttp.InvalidURL as error:
            raise CallbackUrlRefused from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, Blocked):
                raise refusal(where) from error
            raise


@asynccontextmanager
async def opened_callbacks(db: Database, allow_hosts: Sequence[str]) -> AsyncIterator[CallbackSender]:
    """The sender with its connections."""
    async with _session(trusted=False) as guarded, _session(trusted=True) as trusted:
        yield CallbackSender(db, allow_hosts, guarded, trusted)


def _session(*, trusted: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector(trusted=trusted), timeout=TIMEOUT, trust_env=False, auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": "dswbot", "Content-Type": "application/json"},
    )  # fmt: skip


def signed(secret: str, identifier: str, at: datetime, payload: str) -> dict[str, str]:
    """The headers of one try. Raises Undeliverable where the secret is none.

    standardwebhooks takes any secret, and signs another time than the header's where `at` is not UTC.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if len(key) < SHORTEST_KEY:
        raise Undeliverable("the client's secret is damaged: `dswbot client rotate` makes a new one")
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(key).sign(identifier, at, payload),
    }


def again(failures: int, reason: str, pause: float = 0.0) -> TryLater | Undeliverable:
    """What follows one more failure: a later try, not before the pause that the receiver asks for, or the end."""
    if failures >= len(DELAYS):
        return Undeliverable(f"{reason}; given up after {failures + 1} tries")
    delay = DELAYS[failures] * random.uniform(1.0, 1.2)  # noqa: S311 - spreads those that failed together
    return TryLater(reason, max(delay, min(pause, LONGEST_PAUSE)))


def _pause(retry_after: str, at: datetime) -> float:
    """Seconds; 0 where the header says nothing that makes sense. It is a number or a date."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        date = parsedate_tz(retry_after)
        return mktime_tz(date) - at.timestamp() if date else float(int(retry_after))
    return 0.0


async def _read(answer: aiohttp.ClientResponse) -> None:
    """Lets the receiver end what it says, within reason; its status has said all that counts."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
        await answer.content.readexactly(MOST_READ)


def _reason(error: aiohttp.ClientError | TimeoutError, where: Target) -> str:
    host = where.url.host
    match error:
        case TimeoutError():
            return f"{host} did not answer within {TIMEOUT.total:g} s"
        case aiohttp.ClientConnectorDNSError():
            return f"{host} can't be found"
        case aiohttp.ClientConnectorCertificateError():
            return f"{host} shows a certificate that is not trusted"
        case aiohttp.ClientConnectorError():
            return f"{host} can't be reached: {error.os_error.strerror or error.os_error}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return f"{host} closed the connection without an answer"
    return f"{host} gave an answer that can't be understood"
