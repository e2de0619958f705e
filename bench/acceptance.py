"""Durable acceptances a second: one commit each, in groups, and through HTTP.

    python -m bench.acceptance [--postgres postgresql+asyncpg://user@host/database]

Every acceptance is on the disk before its caller goes on (SQLite: synchronous=FULL). The table's rows come from the
same run; the columns are what 64 callers reach who each begin the next call when the last has returned, and how long
a call takes at half that rate.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from bot.clock import now
from bot.config import Server
from bot.conversation import Persona, Turns
from bot.web.auth import Keys
from bot.web.server import Health, serving
from bot.web.webhooks import Webhooks
from inference.engine import Engine
from inference.protocol import EngineConfig
from storage import clients, inbox, migrations
from storage.acceptance import Acceptance
from storage.database import Database
from storage.inbox import Incoming

CALLERS = 64
SECONDS = 6.0
ROOMS = 500  # conversations that the messages go to

Call = Callable[[int], Awaitable[object]]
numbers = itertools.count()


@dataclass(frozen=True)
class Figures:
    """Acceptances a second at full load; milliseconds that one takes at half of that."""

    name: str
    rate: float
    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.name:<44}{self.rate:>9,.0f}{self.p50:>9.1f}{self.p99:>9.1f}"


def incoming(number: int) -> Incoming:
    """A message like a client's: its own key, one of many conversations."""
    return Incoming("webhook:bench", f"key-{number}", f"webhook:bench:room-{number % ROOMS}", "Hello, are you there?",
                    body_hash="0" * 64)  # fmt: skip


async def full_load(call: Call, seconds: float) -> float:
    """Calls a second that CALLERS reach."""
    until = time.monotonic() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < until:
            await call(next(numbers))
            done += 1

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return done / (time.monotonic() - began)


async def at_rate(call: Call, rate: float, seconds: float) -> list[float]:
    """Seconds that each call took, where they come at even distances whatever the earlier ones do."""
    times: list[float] = []

    async def one(due: float) -> None:
        await call(next(numbers))
        times.append(time.monotonic() - due)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index in range(int(rate * seconds)):
            due = began + index / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(due))
    return sorted(times)


async def measured(name: str, call: Call) -> Figures:
    await full_load(call, 0.5)
    rate = await full_load(call, SECONDS)
    times = await at_rate(call, rate / 2, SECONDS)
    return Figures(name, rate, 1e3 * times[len(times) // 2], 1e3 * times[int(0.99 * len(times))])


def one_commit_each(db: Database) -> Call:
    async def call(number: int) -> None:
        async with db.write() as session:
            await inbox.accept(session, [incoming(number)], now())

    return call


def in_groups(db: Database) -> Call:
    acceptance = Acceptance(db)
    return lambda number: acceptance.accept(incoming(number), now())


async def storage_figures(url: str, name: str) -> None:
    async with Database(url) as db:
        await migrations.upgrade(db)
        for way, call in (("one commit each", one_commit_each(db)), ("in groups", in_groups(db))):
            print(await measured(f"{name}, {way}", call), flush=True)


@asynccontextmanager
async def http_service(folder: str) -> AsyncIterator[tuple[str, str]]:
    """The HTTP side of the service in a process of its own, with nobody who answers: (url, key)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.acceptance", "--serve", folder, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        url, key = (await process.stdout.readline()).decode().split()
        yield url, key
    finally:
        process.kill()
        await process.wait()


async def serve(folder: str) -> None:
    """What `http_service` runs."""
    async with Database(f"sqlite+aiosqlite:///{folder}/http.db") as db:
        await migrations.upgrade(db)
        async with db.write() as session:
            client = await clients.create_client(session, "bench", "https://bench.invalid/", now())
        keys = Keys(db)
        turns = Turns(db, Engine(EngineConfig("none", "", "")), Persona(), owner="bench")
        routes = [*Health({}, keys, CollectorRegistry()).routes(), *Webhooks(db, turns, keys).routes()]
        async with serving(routes, Server(port=0)) as http:
            print(http.url, client.key, flush=True)
            await asyncio.Event().wait()


async def http_figures(folder: str) -> None:
    async with http_service(folder) as (url, key), aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {key}"}

        async def alive(_number: int) -> None:
            async with session.get(f"{url}/healthz") as answer:
                assert answer.status == 200

        async def known(_number: int) -> None:
            async with session.get(f"{url}/webhooks/bench/messages/none", headers=headers) as answer:
                assert answer.status == 404

        async def post(number: int) -> None:
            body = {"text": "Hello, are you there?", "conversation": f"room-{number % ROOMS}", "reply": "callback"}
            named = headers | {"Idempotency-Key": f"key-{number}"}
            async with session.post(f"{url}/webhooks/bench", json=body, headers=named) as answer:
                assert answer.status == 202, await answer.text()

        print(await measured("HTTP, GET /healthz: client and server alone", alive), flush=True)
        print(await measured("HTTP, GET of no message: and key and client", known), flush=True)
        print(await measured("HTTP, POST /webhooks: and acceptance", post), flush=True)


async def everything(postgres: str) -> None:
    print(f"{'64 callers':<44}{'a second':>9}{'p50 ms':>9}{'p99 ms':>9}   (latency at half the rate)")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        await storage_figures(f"sqlite+aiosqlite:///{folder}/storage.db", "SQLite")
        if postgres:
            await storage_figures(postgres, "PostgreSQL")
        await http_figures(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", default="", help="an empty database to measure beside SQLite")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args([] if sys.argv[0].endswith("bench/__main__.py") else None)
    asyncio.run(serve(options.serve) if options.serve else everything(options.postgres))


if __name__ == "__main__":
    main()
