"""The channel "apprise": notices by DingTalk, Feishu, WeCom, e-mail, ntfy and whatever else apprise knows.

apprise only says whether a message was sent. What it noted of a failed try tells whether it may have arrived all the
same; such a try is not repeated, for a reminder comes once. apprise's own log names addresses and topics, some of them
secret, so that it goes nowhere else. What DingTalk, Feishu and WeCom refuse within an answer of 200 (a robot's missing
keyword, a wrong signature), apprise takes for sent.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bot.clock import now
from bot.delivery import TryLater, Uncertain, Undeliverable
from bot.errors import ConfigError
from storage.outbox import Delivery, NewDelivery

if TYPE_CHECKING:
    from apprise import Apprise, AppriseResult

CHANNEL = "apprise"
TIMEOUT = 30.0  # seconds for one try
LOST = re.compile(r"[\w./ -]{0,30}Exception\b")  # how apprise notes what the connection died of, after a warning
NOT_ARRIVED = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|Unable to connect to proxy|CERTIFICATE_VERIFY_FAILED"
    r"|Connection refused|Name or service not known|name resolution|No route to host|Network is unreachable"
    r"|\([45]\d\d, b"  # what SMTP refuses
)
STATUS = re.compile(r"error=(\d{3})\b")
ORDINALS = {1: "1st", 2: "2nd", 3: "3rd"}


class UrlRefused(ConfigError):
    """alerts.urls has something that is not an apprise URL."""

    def __init__(self, position: int) -> None:
        which = ORDINALS.get(position, f"{position}th")
        super().__init__(f"alerts.urls: the {which} is not an apprise URL; see https://appriseit.com/services/")


Weight = Literal["info", "success", "warning", "failure"]


class Payload(msgspec.Struct, frozen=True):
    """What the outbox keeps: no address. `until`: when it is no longer worth sending."""

    title: str
    body: str
    type: Weight = "info"
    until: datetime | None = None


class AppriseChannel:
    """The outbox's way to the receivers that alerts.urls names. `opened_apprise` makes it."""

    def __init__(self, receivers: dict[str, "Apprise"]) -> None:
        """`receivers`: by their stable names."""
        self._receivers = receivers

    def planned(self, payload: Payload) -> list[NewDelivery]:
        """One for each receiver, each in a lane of its own."""
        encoded = msgspec.json.encode(payload).decode()
        return [NewDelivery(CHANNEL, name, name, encoded) for name in self._receivers]

    def repeatable(self, _delivery: Delivery) -> bool:
        """Nobody would know a reminder that comes again by anything."""
        return False

    async def send(self, delivery: Delivery) -> str | None:
        payload = msgspec.json.decode(delivery.payload, type=Payload)
        receiver = self._receivers.get(delivery.destination)
        if receiver is None:
            raise Undeliverable("alerts.urls no longer has this receiver")
        if payload.until and now() > payload.until:
            raise Undeliverable("it is too late for this notice")
        result = await receiver.async_notify(
            body=payload.body, title=payload.title, notify_type=payload.type, body_format="text", timeout=TIMEOUT,
            log_level=logging.DEBUG,
        )  # fmt: skip
        if result:
            return None
        raise verdict(delivery.destination, result)


def verdict(name: str, result: "AppriseResult") -> TryLater | Uncertain:
    """What a failed try means. `name`: the receiver's."""
    said = [entry.message for entry in result.logs()]
    if result.status.name == "TIMEOUT":
        return Uncertain(f"{name} did not answer within {TIMEOUT:g} s")
    if any(one.startswith("Sent ") for one in said):
        return Uncertain(f"{name} sent it to some of its targets, and not to others")
    if lost := [one for one in said if LOST.match(one)]:
        never = all(NOT_ARRIVED.search(one) for one in lost)
        return TryLater(f"{name} can't be reached") if never else Uncertain(f"the connection to {name} was lost")
    status = next((found[1] for one in said if (found := STATUS.search(one))), "")
    return TryLater(f"{name} answered {status}") if status else Uncertain(f"nobody knows whether {name} got it")


async def opened_apprise(urls: Sequence[str]) -> AppriseChannel:
    """The channel for these receivers. Raises UrlRefused. apprise takes a second to load: in a thread."""
    return AppriseChannel(await asyncio.to_thread(_receivers, urls))


def _receivers(urls: Iterable[str]) -> dict[str, "Apprise"]:
    apprise: Any = import_module("apprise")
    log = logging.getLogger("apprise")
    log.propagate = False
    log.setLevel(logging.DEBUG)  # read by `verdict`
    log.addHandler(logging.NullHandler())
    return {receiver_name(url): _receiver(apprise, url, position) for position, url in enumerate(urls, 1)}


def _receiver(apprise: Any, url: str, position: int) -> "Apprise":
    service = apprise.Apprise.instantiate(str(url))
    if service is None:
        raise UrlRefused(position)
    service.retry, service.optional = 0, False  # the outbox tries again, and wants to know of failures
    service.socket_read_timeout = 2 * TIMEOUT  # so that who does not answer in time is met by our own timeout
    receiver: Apprise = apprise.Apprise([service])
    return receiver


def receiver_name(url: str) -> str:
    """The same for the same URL, on every gateway. It shows only the service; the rest is slow to guess."""
    digest = hashlib.scrypt(url.encode(), salt=b"dswbot alerts.urls", n=2**14, r=8, p=1, dklen=6)
    return f"{url.partition(':')[0][:20].lower()}-{digest.hex()}"
