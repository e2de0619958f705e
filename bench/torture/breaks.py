"""Carries out the plan."""

import asyncio
import contextlib
import os
import random
import signal
import time

from bench.torture import tables
from bench.torture.clients import Record
from bench.torture.gateway import Gateway
from bench.torture.history import History, Trouble
from bench.torture.people import CHATS, People
from bench.torture.plan import Round, Upset
from bench.torture.postgres import Postgres
from storage import migrations
from storage.database import Database
from tests.fakes.callback_receiver import DROP, Answer, Body, CallbackReceiver
from tests.fakes.telegram import FakeTelegram, Fault

REACH = 3.0  # seconds in which a failpoint has to be passed; then the process is killed where it is
RENEWAL = 9.0  # for the one that comes with the age of a claim
SLOWEST = 0.3  # seconds that a receiver takes to acknowledge a callback
MOST_REFUSED = 3  # tries of one callback that meet a fault
FAULTS = {
    "server error": Fault.SERVER_ERROR,
    "drop before": Fault.DROP_BEFORE,
    "drop after": Fault.DROP_AFTER,
    "retry after": Fault.RETRY_AFTER(1),
}
OLD_SCHEMA = "0001"


class Breaker:
    """Breaks gateways and what they talk to, and notes what it did."""

    def __init__(self, telegram: FakeTelegram, receiver: CallbackReceiver, history: History, record: Record,
                 people: People, postgres: Postgres | None, seed: str) -> None:  # fmt: skip
        self.postgres = postgres
        self._telegram = telegram
        self._history = history
        self._record = record
        self._people = people
        self._luck = random.Random(f"{seed} callbacks")
        self._refusing_until = 0.0
        self._refused: dict[str, int] = {}
        receiver.respond = self._respond

    def calm(self) -> None:
        """Nothing goes wrong from now on."""
        self._refusing_until = 0.0
        self._telegram._server.faults.clear()

    def _respond(self, body: Body) -> Answer:
        """How the receiver answers a callback that is right."""
        message = body.data.id
        answer = Answer(hang=self._luck.uniform(0.0, SLOWEST))
        if time.monotonic() < self._refusing_until and self._refused.get(message, 0) < MOST_REFUSED:
            self._refused[message] = self._refused.get(message, 0) + 1
            answer = self._luck.choice([Answer(500), Answer(429, retry_after="1"), DROP, answer])
        if answer.status == 200 and not answer.dropped:
            self._record.told_back.add(message)
        return answer

    async def play(self, one: Round, gateway: Gateway) -> None:
        """One life of a process."""
        if one.end == "migration" and not await tables.callbacks_left(gateway.database_url):
            async with Database(gateway.database_url) as db:
                await migrations.downgrade(db, OLD_SCHEMA)
        await gateway.start(one.failpoint)
        if one.end == "startup":
            await asyncio.sleep(one.after)
        elif await self._is_ready(gateway) and one.end != "migration":
            upsets = [asyncio.create_task(self._upset(upset, gateway)) for upset in one.upsets]
            if one.patient:
                await asyncio.gather(*upsets)
            await self._end(one, gateway)
            await asyncio.gather(*upsets)
        await gateway.kill()
        if not gateway.life.how:
            gateway.life.last_words = gateway.tail()

    async def _is_ready(self, gateway: Gateway) -> bool:
        if not await gateway.until_ready():
            return False
        with contextlib.suppress(*tables.AWAY):
            self._history.noted += await tables.wrong(gateway.database_url)
        return True

    async def _end(self, one: Round, gateway: Gateway) -> None:
        """Until the process dies, or has to be killed; some upsets must be over by then."""
        if one.end == "failpoint":
            await gateway.ended(RENEWAL if one.failpoint.startswith("renew") else REACH)
            return
        if await gateway.ended(one.after):
            return
        if one.end == "worker":
            if _signalled(gateway.worker, signal.SIGKILL):
                self._history.worker_kills.append(time.time())
            await gateway.ended(one.after)
        stopped = gateway.worker if one.end == "term failpoint" else 0
        _signalled(stopped, signal.SIGSTOP)  # no answer comes to its end any more
        if one.end in ("term", "term failpoint"):
            await gateway.terminate()
            _signalled(stopped, signal.SIGKILL)

    async def _upset(self, upset: Upset, gateway: Gateway) -> None:
        await asyncio.sleep(upset.at)
        began = time.time()
        match upset.kind:
            case "telegram":
                for method in upset.methods:
                    for fault in upset.faults:
                        self._telegram.fail_next(method, FAULTS[fault])
                return
            case "command":
                self._people.write(CHATS[0], "/help")
                return
            case "hopeless":
                self._people.write(CHATS[0], hopeless=True)
                return
            case "callbacks":
                self._refusing_until = time.monotonic() + upset.seconds
            case "disk":
                gateway.fill_disk(pages=upset.pages)
                await gateway.ended(upset.seconds)
                gateway.empty_disk()
            case "pause" | "long pause":
                gateway.stop()
                await gateway.ended(upset.seconds)
                gateway.cont()
            case "database" if self.postgres:
                await self.postgres.interrupt(upset.seconds)
        self._history.troubles.append(Trouble(upset.kind, began, max(time.time(), began + upset.seconds)))


def _signalled(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)
            return True
    return False
