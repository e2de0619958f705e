"""A running service whose disk is full or whose database is away: it says so, loses nothing, and recovers by itself."""

import asyncio
import re
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import select

from storage.database import Database
from storage.models import Inbox
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.conftest import SERVER, on_server, postgres_database
from tests.service import Service

HEALTHY = 1.0  # seconds in which /healthz answers, whatever else is broken; a busy machine has three times as long


class Caller:
    """The client `demo` of a service, and an operator with a key."""

    def __init__(self, service: Service) -> None:
        self.url = service.url
        self.key = service.new_key("operator", "admin")
        self._headers = {"Authorization": f"Bearer {service.new_client('demo')['key']}"}

    async def get(self, path: str, key: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return await self._call("GET", path, headers=headers)

    async def show(self, identifier: str) -> tuple[int, str]:
        return await self._call("GET", f"/webhooks/demo/messages/{identifier}", headers=self._headers)

    async def say(self, name: str, reply: str = "wait") -> tuple[int, str]:
        headers = {**self._headers, "Idempotency-Key": name}
        return await self._call("POST", "/webhooks/demo", headers=headers, json={"text": "Hi", "reply": reply})

    async def _call(self, method: str, path: str, **options: object) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(40)
        async with aiohttp.ClientSession(timeout=timeout) as http, http.request(
            method, self.url + path, **options
        ) as response:  # fmt: skip
            return response.status, await response.text()

    async def follow(self, name: str, begun: asyncio.Event | None = None) -> tuple[int, str]:
        """What is streamed of an answer; again, where its name is known already."""
        headers = {**self._headers, "Idempotency-Key": name}
        body = {"text": "Tell me a long story.", "reply": "stream"}
        said = b""
        async with aiohttp.ClientSession(headers=headers) as http, http.post(
            f"{self.url}/webhooks/demo", json=body
        ) as response:  # fmt: skip
            async for line in response.content:
                said += line
                if begun and line.startswith(b"event: delta"):
                    begun.set()
            return response.status, said.decode()

    @asynccontextmanager
    async def answering(self, name: str) -> AsyncIterator["asyncio.Task[tuple[int, str]]"]:
        """A message whose answer has begun; gives what will have been streamed."""
        begun = asyncio.Event()
        task = asyncio.create_task(self.follow(name, begun), name=f"answer {name}")
        async with asyncio.timeout(30):
            await begun.wait()
        yield task

    async def comes_after_all(self, answer: "asyncio.Task[tuple[int, str]]", name: str) -> None:
        """Who was cut off while nobody could look at the tables asks again, and has the answer."""
        async with asyncio.timeout(40):
            with suppress(aiohttp.ClientPayloadError):
                await answer
        await self.well_again()
        async with asyncio.timeout(40):
            finished(await self.follow(name))

    async def healthy(self) -> None:
        began = time.monotonic()
        assert (await self.get("/healthz"))[0] == 200
        assert time.monotonic() - began < 3 * HEALTHY

    async def well_again(self) -> None:
        """By itself, and soon."""
        async with asyncio.timeout(30):
            while (await self.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.1)


def refused(told: tuple[int, str], cause: str) -> None:
    """A 503 of one sentence or two that names the cause."""
    status, said = told
    assert status == 503, said
    assert re.fullmatch(r'\{"error":\{"message":"[^\n]*",.*"code":"storage_unavailable"\}\}', said), said
    assert re.search(cause, said), said
    assert "hunter2" not in said


def finished(told: tuple[int, str]) -> None:
    status, said = told
    assert status == 200
    assert "event: done" in said
    assert "event: restarted" not in said  # it was answered once


@contextmanager
def full_disk(service: Service) -> Iterator[None]:
    """No file of the service grows, as on a full disk; Python ignores the signal that comes with it."""
    before = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_a_full_disk_is_told_and_costs_nothing(data: Path):
    with Service(data) as service:
        caller, process = Caller(service), service.pid
        status, said = await caller.say("before")
        assert status == 200, said
        stored = re.search(r'"id":"(\w+)"', said)[1]
        async with caller.answering("meanwhile") as meanwhile:
            with full_disk(service):
                for name in ("refused 1", "refused 2"):
                    refused(await caller.say(name), "full or failing")
                assert (await caller.show(stored))[0] == 200
                await caller.healthy()
                status, said = await caller.get("/readyz", caller.key)
                assert (status, "full or failing" in said) == (503, True), said
                status, said = await caller.get("/readyz")
                assert (status, "full or failing" in said) == (503, False), said
                service.wait_for_line("trying again.*the end of a turn|the end of a turn.*trying again")
                assert not meanwhile.done()
            async with asyncio.timeout(30):
                finished(await meanwhile)
        await caller.well_again()
        for name in ("refused 1", "after"):
            assert (await caller.say(name))[0] == 200
        assert service.pid == process
        assert service._process.poll() is None
        assert "Traceback" not in "".join(service.output)
    with sqlite3.connect(data / "dswbot.db") as db:
        told = db.execute("SELECT external_id, state, attempts FROM inbox ORDER BY id").fetchall()
        assert told == [(name, "done", 0) for name in ("before", "meanwhile", "refused 1", "after")]
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (8,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_postgresql_that_goes_away_or_hangs_is_told_and_costs_nothing(data: Path):
    async with postgres_database() as url:
        with TcpProxy(SERVER.host, SERVER.port or 5432) as proxy:
            there = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            with Service(data, DSWBOT_DATABASE__URL=there) as service:
                caller = Caller(service)
                await backends_are_terminated(caller, url.database)
                await nothing_is_there(caller, proxy, service)
                await nothing_comes_back(caller, proxy)
                assert "Traceback" not in "".join(service.output)
                service.stop()
            check = await states(url.render_as_string(hide_password=False))
            assert {state for _, state, _ in check} == {"done"}
            assert {attempts for _, _, attempts in check} == {0}
            assert {"first", "terminated", "cut", "hanging"} <= {name for name, _, _ in check}


async def backends_are_terminated(caller: Caller, database: str) -> None:
    assert (await caller.say("first"))[0] == 200
    async with caller.answering("terminated") as answer:
        await on_server(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        await caller.healthy()
        async with asyncio.timeout(40):
            finished(await answer)
    await caller.well_again()


async def nothing_is_there(caller: Caller, proxy: TcpProxy, service: Service) -> None:
    async with caller.answering("cut") as answer:
        proxy.set("cut")
        refused(await caller.say("refused 1"), "PostgreSQL at 127.0.0.1")
        await caller.healthy()
        status, said = await caller.get("/readyz", caller.key)
        assert status == 503, said
        service.wait_for_line("trying again")
        proxy.set("open")
        await caller.comes_after_all(answer, "cut")
    assert (await caller.say("after the cut"))[0] == 200


async def nothing_comes_back(caller: Caller, proxy: TcpProxy) -> None:
    """The worst: connections are taken, and nothing is ever answered."""
    async with caller.answering("hanging") as answer:
        proxy.set("dead")
        saying = asyncio.create_task(caller.say("refused 2"), name="refused 2")
        await caller.healthy()
        status, said = await caller.get("/readyz", caller.key)
        assert status == 503, said
        refused(await saying, "PostgreSQL at 127.0.0.1")
        proxy.set("open")
        await caller.comes_after_all(answer, "hanging")
    await caller.well_again()
    assert (await caller.say("after the silence"))[0] == 200


async def states(url: str) -> list[tuple[str, str, int]]:
    async with Database(url) as db, db.read() as session:
        query = select(Inbox.external_id, Inbox.state, Inbox.attempts)
        return [tuple(row) for row in await session.execute(query)]
