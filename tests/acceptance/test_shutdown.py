"""A stop: in time, with exit code 0, and with nothing lost, whatever goes on meanwhile."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.conftest import postgres_database
from tests.service import DSWBOT, Service

BUSY = 1.5  # seconds by which a busy machine may be late
STORY = "Tell me a long story about a fox who lives by the sea, with many animals."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def rows(data: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(f"file:{data / 'dswbot.db'}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


async def stopped(service: Service, seconds: float = 10) -> float:
    """Stops it as systemd does; gives the seconds that this took."""
    family = [service.pid, *children(service.pid)]
    began = time.monotonic()
    code = await asyncio.to_thread(service.stop, signal.SIGTERM, seconds + 10)
    took = time.monotonic() - began
    said = "".join(service.output)
    assert code == 0, said
    assert took < seconds + BUSY, said
    assert "Traceback" not in said, said
    assert "never retrieved" not in said, said
    await asyncio.sleep(0.5)
    assert [pid for pid in family if alive(pid)] == []
    return took


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.asynccontextmanager
async def talking(service: Service, client: dict[str, str]):
    headers = {"Authorization": f"Bearer {client['key']}"}
    async with aiohttp.ClientSession(service.url + "/", headers=headers) as http:
        yield http


async def ask(http: aiohttp.ClientSession, text: str, key: str, room: str = "room") -> tuple[int, dict]:
    headers = {"Idempotency-Key": key}
    async with http.post("webhooks/demo", json={"text": text, "conversation": room}, headers=headers) as answer:
        return answer.status, await answer.json()


async def draft(data: Path) -> str:
    """What is noted of the answer that is being written, once it is more than a few words."""
    async with asyncio.timeout(60):
        while not (found := rows(data, "SELECT text FROM drafts WHERE length(text) > 40")):
            await asyncio.sleep(0.05)
    return found[0][0]


async def test_with_nothing_going_on_it_takes_a_moment(data: Path) -> None:
    assert await stopped(Service(data).start()) < 8


async def test_a_long_answer_is_noted_and_goes_on_after_the_restart(data: Path) -> None:
    service = Service(data, DSWBOT_SERVER__SHUTDOWN_TIMEOUT="4s").start()
    client = service.new_client("demo")
    async with talking(service, client) as http:
        asking = asyncio.create_task(ask(http, STORY, "fox"))
        await draft(data)
        await stopped(service, 4)
        status, told = await asking
        # whether the call or the turn ends first, is open: by then the message may have been given back
        assert (status, told["status"]) in ((202, "claimed"), (202, "queued")), told
    if rows(data, "SELECT state FROM inbox") == [("done",)]:
        pytest.skip("the answer was short")
    assert rows(data, "SELECT state, attempts, fence FROM inbox") == [("queued", 0, 1)]
    ((begun,),) = rows(data, "SELECT text FROM drafts")
    service.start()
    async with talking(service, client) as http:
        status, answer = await ask(http, STORY, "fox")
    assert status == 200
    assert answer["reply"]["text"].startswith(begun.strip())
    assert rows(data, "SELECT state, attempts, fence FROM inbox") == [("done", 0, 2)]
    assert rows(data, "SELECT count(*) FROM drafts") == [(0,)]
    await stopped(service)


async def test_a_short_answer_is_finished_and_told(data: Path) -> None:
    service = Service(data, DSWBOT_SERVER__SHUTDOWN_TIMEOUT="60s").start()
    client = service.new_client("demo")
    async with talking(service, client) as http:
        asking = asyncio.create_task(ask(http, STORY, "fox"))
        await draft(data)
        stopping = asyncio.create_task(stopped(service, 60))
        service_says_it_is_stopping = await refused(http)
        status, answer = await asking
        await stopping
    assert status == 200, answer
    assert answer["reply"]["text"]
    assert rows(data, "SELECT state, attempts, fence FROM inbox") == [("done", 0, 1)]
    assert service_says_it_is_stopping == (503, "stopping", "5")


async def refused(http: aiohttp.ClientSession) -> tuple[int, str, str]:
    """What a call is told that comes meanwhile, on a new connection."""
    async with asyncio.timeout(10):
        while True:
            async with http.get("v1/models", headers={"Connection": "close"}) as answer:
                if answer.status == 503:
                    body = await answer.json()
                    return answer.status, body["error"]["code"], answer.headers["Retry-After"]
            await asyncio.sleep(0.01)


async def test_a_worker_that_is_stopped_is_killed_however_little_time_there_is(data: Path) -> None:
    """With the usual ten seconds: test_crashes."""
    service = Service(data, DSWBOT_SERVER__SHUTDOWN_TIMEOUT="2s").start()
    os.kill(service.worker_pid, signal.SIGSTOP)
    await stopped(service, 2)


async def test_a_second_signal_ends_it_at_once(data: Path) -> None:
    service = Service(data).start()
    worker = service.worker_pid
    os.kill(worker, signal.SIGSTOP)
    os.kill(service.pid, signal.SIGTERM)
    await asyncio.sleep(0.3)
    began = time.monotonic()
    assert await asyncio.to_thread(service.stop) == 1
    assert time.monotonic() - began < 0.5 + BUSY
    assert not alive(worker)


@pytest.mark.parametrize("how", ["cut", "dead"])
async def test_a_database_that_is_gone_holds_nothing_up(data: Path, how: str) -> None:
    async with postgres_database() as url:
        with TcpProxy(url.host or "127.0.0.1", url.port or 5432) as line:
            through = url.set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)
            settings = {"DSWBOT_SERVER__SHUTDOWN_TIMEOUT": "4s", "DSWBOT_DATABASE__URL": through}
            service = Service(data, **settings).start()
            async with talking(service, service.new_client("demo")) as http:
                asking = asyncio.create_task(ask(http, STORY, "fox"))
                await asyncio.sleep(1)
                line.set(how)
                await asyncio.sleep(0.5)
                await stopped(service, 4)
                with contextlib.suppress(aiohttp.ClientError):
                    await asking


@pytest.fixture
def starting(data: Path) -> Iterator["subprocess.Popen[str]"]:
    service = Service(data)
    process = subprocess.Popen(
        [DSWBOT, "serve"], env=service.env, cwd=service.cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_while_the_model_is_loading(data: Path, starting: "subprocess.Popen[str]") -> None:
    async with asyncio.timeout(30):
        while not (started := children(starting.pid)):
            await asyncio.sleep(0.01)
    began = time.monotonic()
    starting.send_signal(signal.SIGTERM)
    said, _ = await asyncio.to_thread(starting.communicate, None, 15)
    assert starting.returncode == 0, said
    assert time.monotonic() - began < 8
    assert "Traceback" not in said, said
    assert [pid for pid in started if alive(pid)] == []


async def test_while_it_waits_for_its_database(data: Path) -> None:
    """A server that takes connections and never answers."""
    with TcpProxy("127.0.0.1", 1) as line:
        line.set("dead")
        settings = {"DSWBOT_DATABASE__URL": f"postgresql+asyncpg://u@127.0.0.1:{line.port}/name"}
        service = Service(data, **settings)
        process = await asyncio.create_subprocess_exec(
            DSWBOT, "serve", env=service.env, cwd=service.cwd,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(30):
            while not line.accepted:
                await asyncio.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said, _ = await process.communicate()
        assert process.returncode == 0, said
        assert time.monotonic() - began < 5
        assert b"Traceback" not in said
