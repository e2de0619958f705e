"""One service with its users, its fakes and its breaks, from the first start to the last look at the tables."""

import asyncio
import contextlib
import json
import random
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.torture import tables
from bench.torture.breaks import Breaker
from bench.torture.checks import Index
from bench.torture.clients import Record, Shop
from bench.torture.gateway import Gateway
from bench.torture.history import History
from bench.torture.observed import observe
from bench.torture.people import CHATS, TOKEN, People
from bench.torture.plan import Round, rounds
from bench.torture.postgres import Postgres, opened
from tests.fakes.callback_receiver import CallbackReceiver
from tests.fakes.telegram import FakeTelegram

DRAIN = 90.0  # seconds in which everything must have an end once nothing is broken any more
TELL_EVERY = 30.0  # seconds
MODEL = {"DSWBOT_MODEL__SLOTS": "4", "DSWBOT_MODEL__CONTEXT": "128", "DSWBOT_MODEL__THINKING": "off"}


@dataclass(frozen=True, slots=True)
class Options:
    """What one shard does."""

    seed: str
    kills: int
    folder: Path
    model: Path
    database: str = "sqlite"
    gateways: int = 1
    telegram: str = "one"  # gateways that poll: one, all or none
    server: str = ""  # an existing PostgreSQL server to use; without one, a private one is started
    minutes: float = 0.0  # no further round begins after so many; 0: no limit
    plan: tuple[Round, ...] = ()  # instead of the seed's


class Shard:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.history = History(dialect=options.database, gateways=options.gateways)
        self.record = Record()
        self._luck = random.Random(f"{options.seed} users")

    async def run(self) -> Index:
        """Plays the whole plan; gives the history with its tables."""
        async with AsyncExitStack() as stack:
            telegram = await stack.enter_async_context(FakeTelegram(TOKEN))
            receiver = await stack.enter_async_context(CallbackReceiver())
            postgres = None
            if self.options.database == "postgresql":
                postgres = await stack.enter_async_context(opened(self.options.server))
            gateways = self._gateways(telegram, postgres)
            shop = await self._shop(gateways, receiver)
            stack.push_async_callback(shop.close)
            people = People(telegram, self.record, self._luck)
            people.closing = self.options.telegram == "none"
            breaker = Breaker(telegram, receiver, self.history, self.record, people, postgres, self.options.seed)
            users = self._users(shop, people)
            await asyncio.gather(*(self._play(number, one, breaker) for number, one in enumerate(gateways)))
            breaker.calm()
            shop.closing = people.closing = True
            await self._drain(gateways, users, telegram)
            await asyncio.gather(*(one.terminate() for one in gateways))
            for one in gateways:
                self.history.lives += one.lives
            self.history.noted += await tables.damage(gateways[0].database_url)
            await tables.read(gateways[0].database_url, self.history)
            observe(self.history, self.record, telegram, receiver)
        return Index(self.history)

    def _gateways(self, telegram: FakeTelegram, postgres: Postgres | None) -> list[Gateway]:
        settings = {
            **MODEL,
            "DSWBOT_MODEL__PATH": str(self.options.model),
            "DSWBOT_WEBHOOKS__ALLOW_HOSTS": "127.0.0.1",
            **({"DSWBOT_DATABASE__URL": postgres.url} if postgres else {}),
        }
        polling = {
            "DSWBOT_TELEGRAM__TOKEN": TOKEN,
            "DSWBOT_TELEGRAM__BASE_URL": telegram.base_url,
            "DSWBOT_TELEGRAM__BASE_FILE_URL": telegram.base_file_url,
            "DSWBOT_TELEGRAM__ALLOWED": ",".join(str(chat) for chat in CHATS),
        }
        polls = {"one": 1, "all": self.options.gateways, "none": 0}[self.options.telegram]
        return [
            Gateway(f"gateway-{number}", self.options.folder, **settings, **(polling if number < polls else {}))
            for number in range(self.options.gateways)
        ]

    async def _shop(self, gateways: list[Gateway], receiver: CallbackReceiver) -> Shop:
        made = json.loads(await gateways[0].command("client", "new", "shop", "--callback-url", receiver.url))
        receiver.secret = made["secret"]
        return Shop("shop", made["key"], lambda: [one.url for one in gateways], self.record, self._luck)

    def _users(self, shop: Shop, people: People) -> list[asyncio.Task[None]]:
        talks = [
            shop.room("waiting", "wait"),
            shop.room("streaming", "stream"),
            shop.room("crowded", "wait", "stream", "callback", at_once=3),
            shop.room("told-1", "callback", at_once=2),
            shop.room("told-2", "callback"),
            *(people.chat(chat) for chat in CHATS),
        ]
        return [asyncio.create_task(talk) for talk in talks]

    async def _play(self, number: int, gateway: Gateway, breaker: Breaker) -> None:
        options = self.options
        kills = options.kills // options.gateways + (number < options.kills % options.gateways)
        plan = options.plan or rounds(
            f"{options.seed}/{number}", kills, postgres=breaker.postgres is not None, alone=options.gateways == 1,
            telegram=gateway.polls,
        )  # fmt: skip
        done, began, told = 0, time.monotonic(), time.monotonic()
        for one in plan:
            if options.minutes and time.monotonic() - began > 60 * options.minutes:
                print(f"  {gateway.name}: the time is up after {done} of {kills} kills", file=sys.stderr)
                return
            await breaker.play(one, gateway)
            done += one.kills
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                self._tell(gateway, done, kills, told - began)

    def _tell(self, gateway: Gateway, done: int, kills: int, seconds: float) -> None:
        settled = len({heard.marker for heard in self.record.heard}) + len(self.record.told_back)
        print(
            f"  {self.options.folder.name} {gateway.name}: {done} of {kills} kills in {seconds:.0f} s, "
            f"{len(self.record.asks)} messages, {settled} replies to programs",
            file=sys.stderr,
        )  # fmt: skip

    async def _drain(self, gateways: list[Gateway], users: list[asyncio.Task[None]], telegram: FakeTelegram) -> None:
        """Lets everything come to its end."""
        for one in gateways:
            if not one.alive:
                await one.start()
            if not await one.until_ready():
                self.history.noted.append(f"{one.name} does not start any more:\n{one.tail()}")
                return
        try:
            async with asyncio.timeout(DRAIN):
                await asyncio.wait(users)
                while True:
                    with contextlib.suppress(*tables.AWAY):
                        if not telegram.pending and await self._all_done(gateways[0]):
                            break
                    await asyncio.sleep(0.2)
        except TimeoutError:
            messages, deliveries = await tables.unfinished(gateways[0].database_url)
            self.history.noted.append(
                f"not everything had an end {DRAIN:g} s after the last break: {messages} messages, {deliveries} "
                f"deliveries, {len(telegram.pending)} updates, {sum(not one.done() for one in users)} users"
            )
        for user in users:
            user.cancel()
        for result in await asyncio.gather(*users, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _all_done(self, gateway: Gateway) -> bool:
        wanted = {ask.told_id for ask in self.record.asks if ask.mode == "callback"}
        return wanted <= self.record.told_back and await tables.unfinished(gateway.database_url) == (0, 0)
