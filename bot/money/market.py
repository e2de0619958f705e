"""What changes slowly and is asked of the cloud now and then: price, stock, the account, the instance's life."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from bot.money import rates
from bot.money.accounts import Account, Terms
from bot.money.cost import Books, load
from bot.money.instance import CallFailed, Cloud, Subscription
from bot.money.notice import Amount
from storage import money
from storage.database import Database
from storage.timeline import Price

log = structlog.get_logger()

T = TypeVar("T")

EVERY = timedelta(minutes=10)
FIRST_REACH = timedelta(days=35)  # that the instance's life is asked for when the service starts
REACH = timedelta(days=2)  # and later


@dataclass(frozen=True, slots=True)
class Market:
    """As it was last seen. `price`: what an hour takes, from whichever source is best."""

    price: Price
    stock: bool | None = None
    sufficient: bool | None = None
    account: Account | None = None

    @property
    def hourly(self) -> Amount:
        return Amount(self.price.yuan_per_hour, self.price.compute_hours_per_hour)


class Markets:
    """Keeps one instance's market up to date. A call that fails leaves what was known, and is tried again later."""

    def __init__(self, db: Database, instance: str, cloud: Cloud | None, terms: Terms) -> None:
        self._db = db
        self._instance = instance
        self._cloud = cloud
        self._terms = terms
        self._looked: datetime | None = None
        self._refused: set[str] = set()
        self._listed: Price | None = None
        self.now = Market(rates.in_force("", terms, None, None))

    async def refresh(self, spec: str, at: datetime, *, soon: bool = False) -> bool:
        """Looks again, if it is time or `soon`; whether it did. Raises StorageError."""
        if self._looked and not soon and timedelta() <= at - self._looked < EVERY:
            return False
        subscription, stock = await self._ask(spec, at)
        async with self._db.write() as session:
            if subscription and subscription.quota:
                await money.note_quota(session, subscription.quota)
        async with self._db.read() as session:
            books = await load(session, self._terms, at)
        account = await asyncio.to_thread(books.account, self._terms, at)  # a tenth of a second for months
        sufficient = subscription.sufficient if subscription else self.now.sufficient
        self.now = Market(self._price(spec, books), stock, sufficient, account)
        self._looked = at
        return True

    async def _ask(self, spec: str, at: datetime) -> tuple[Subscription | None, bool | None]:
        cloud = self._cloud
        if cloud is None:
            return None, None
        subscription = await self._told("the account", cloud.subscription)
        stock = await self._told("the stock", lambda: cloud.stock(spec)) if spec else None
        self._listed = (await self._told("the price", lambda: cloud.price(spec)) if spec else None) or self._listed
        lived = await self._told(
            "the instance's life", lambda: cloud.lived(at - (REACH if self._looked else FIRST_REACH))
        )
        if lived:
            price = rates.in_force(spec, self._terms, self._listed, None)
            async with self._db.write() as session:
                await money.rebuild(session, self._instance, lived, price, at)
        return subscription, stock

    def _price(self, spec: str, books: Books) -> Price:
        mine = [segment for segment in books.segments if segment.instance == self._instance]
        return rates.in_force(spec, self._terms, self._listed, rates.learned(books.quotas, mine, spec))

    async def _told(self, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """None where the cloud refuses, which is logged once until it answers again."""
        try:
            answer = await call()
        except CallFailed as error:
            if what not in self._refused:
                log.warning("the cloud does not tell", what=what, reason=str(error))
            self._refused.add(what)
            return None
        self._refused.discard(what)
        return answer
