"""Links that carry out an order once: what buttons are where there are none. The link is all that it takes.

A token is 1.TICKET.MAC: the ticket says what is to be done; the MAC over the version, the instance and the ticket, that
we have written it. The MAC is the order's key too, so that it is placed once, whoever follows the link, however often.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Literal

import msgspec

from bot.clock import now
from bot.errors import ConfigError
from bot.money.notice import Notice
from bot.money.situation import Reminder
from storage import orders
from storage.database import Database
from storage.orders import Order

VERSION = "1"
KEY_BYTES = 32
LIFE = timedelta(hours=12)
HOLDS = (30, 120)  # minutes
LONGEST_TOKEN = 200  # characters
IDLE = frozenset(Reminder) - {Reminder.DRY_RUN_SAVED}

Kind = Literal["stop", "hold", "mute"]
State = Literal["open", "used", "expired"]


class KeyDamaged(ConfigError):
    """The key of the links is damaged: delete order.key in data_dir; links sent so far end with it."""


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one link does. `minutes`: of a hold, from when it is followed. `expires`: in seconds; a mute ends then."""

    kind: Kind
    minutes: int
    epoch: int
    expires: int

    @property
    def choice(self) -> str:
        """By which `wording` calls it."""
        return f"hold-{self.minutes}" if self.kind == "hold" else self.kind

    @property
    def until(self) -> datetime:
        return datetime.fromtimestamp(self.expires, UTC)


@dataclass(frozen=True, slots=True)
class View:
    """What a link would do, for a page. `minutes`: of a hold. `until`: of a mute, in the operators' zone."""

    kind: Kind
    instance: str
    minutes: int
    until: datetime
    state: State


def tickets(notice: Notice, zone: tzinfo) -> list[Ticket]:
    """The links that a notice offers: a stop where one would work, and for an idle instance holds and silence."""
    day_ends = datetime.combine(notice.at.astimezone(zone).date() + timedelta(days=1), time(), zone)
    expires, midnight = int((notice.at + LIFE).timestamp()), int(day_ends.timestamp())
    offered = [Ticket("stop", 0, notice.epoch, expires)] if notice.stoppable else []
    if notice.kind in IDLE:
        offered += [Ticket("hold", minutes, notice.epoch, expires) for minutes in HOLDS]
        offered.append(Ticket("mute", 0, notice.epoch, midnight))
    return offered


def links(notice: Notice, key: bytes, public_url: str, zone: tzinfo) -> list[tuple[str, str]]:
    """(choice, address) of each, for `wording.with_links`; none without an address that others can reach."""
    if not public_url:
        return []
    base = f"{public_url.rstrip('/')}/orders/"
    return [(one.choice, base + signed(one, notice.instance, key)) for one in tickets(notice, zone)]


def signed(ticket: Ticket, instance: str, key: bytes) -> str:
    body = msgspec.msgpack.encode(ticket)
    return f"{VERSION}.{_text(body)}.{_text(_mac(body, instance, key))}"


def ticket_of(token: str, instance: str, key: bytes) -> Ticket | None:
    """None where this instance's key has not signed it."""
    version, _, rest = token.partition(".")
    try:
        if len(token) > LONGEST_TOKEN or version != VERSION:
            return None
        body, mac = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in rest.split("."))
    except ValueError:  # also where there are not two parts
        return None
    if not hmac.compare_digest(mac, _mac(body, instance, key)):
        return None
    return msgspec.msgpack.decode(body, type=Ticket)


def _mac(body: bytes, instance: str, key: bytes) -> bytes:
    name = instance.encode()
    signed_bytes = b"dswbot order link %s\0%d\0%s%s" % (VERSION.encode(), len(name), name, body)
    return hmac.digest(key, signed_bytes, hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class LinkOrders:
    """What the pages behind the links ask for."""

    def __init__(self, db: Database, instance: str, key: bytes, zone: tzinfo, placed: Callable[[], None]) -> None:
        """`placed` is called once there is an order to carry out."""
        self._db = db
        self._instance = instance
        self._key = key
        self._zone = zone
        self._placed = placed

    async def look(self, token: str) -> View | None:
        """What it would do; None where the token is none of ours. Raises StorageError."""
        ticket = ticket_of(token, self._instance, self._key)
        if ticket is None:
            return None
        async with self._db.read() as session:
            used = await orders.known(session, self._order_key(ticket))
        return self._view(ticket, "used" if used else "expired" if now() >= ticket.until else "open")

    async def place(self, token: str) -> View | None:
        """Carries it out; the state is what `look` said before. Raises StorageError."""
        ticket = ticket_of(token, self._instance, self._key)
        if ticket is None or now() >= ticket.until:
            return await self.look(token)
        until = {"stop": None, "hold": now() + timedelta(minutes=ticket.minutes), "mute": ticket.until}[ticket.kind]
        order = Order(self._order_key(ticket), self._instance, ticket.kind, "link", until)
        async with self._db.write() as session:
            fresh = await orders.place(session, order, now())
        if fresh:
            self._placed()
        return self._view(ticket, "open" if fresh else "used")

    def _order_key(self, ticket: Ticket) -> str:
        return f"link:{_mac(msgspec.msgpack.encode(ticket), self._instance, self._key).hex()}"

    def _view(self, ticket: Ticket, state: State) -> View:
        return View(ticket.kind, self._instance, ticket.minutes, ticket.until.astimezone(self._zone), state)


def order_key(path: Path) -> bytes:
    """The key in that file, which is made where there is none. Raises KeyDamaged, ConfigError."""
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read or made: {error.strerror}.") from None
    if len(key) != KEY_BYTES:
        raise KeyDamaged
    return key


def _make_key(path: Path) -> None:
    """Appears whole, or not at all; whoever is first has made it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(descriptor, secrets.token_bytes(KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
