"""The real service and a DSW instance that costs money: it is stopped when idle, and never by mistake."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.dsw import FakeDsw
from tests.fakes.dsw_faults import Fault
from tests.fakes.dsw_instance import Pace
from tests.service import Service

ID = "dsw-1"
BRISK = Pace(*[timedelta(seconds=0.3)] * len(fields(Pace)))
STOPS = {
    "DSWBOT_DSW__INSTANCE_ID": ID, "DSWBOT_DSW__REGION": "cn-hangzhou", "DSWBOT_DSW__ALLOW_STOP": "true",
    "DSWBOT_DSW__DRY_RUN": "false", "DSWBOT_IDLE__ACTION": "stop", "DSWBOT_IDLE__AFTER": "1s",
    "DSWBOT_IDLE__WARN_FOR": "1s", "DSWBOT_IDLE__FLOOR": "1s", "DSWBOT_IDLE__WATCH": "requests,streams,downloads",
}  # fmt: skip
HERE = {"DSW_INSTANCE_ID": ID}  # the service runs on the instance
REFUSED = Fault(200, "InternalError", "try later")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def dsw() -> AsyncIterator[FakeDsw]:
    async with FakeDsw() as fake:
        fake.add(ID, pace=BRISK)
        yield fake
        assert fake.world.deleted == []


@asynccontextmanager
async def serving(data: Path, dsw: FakeDsw, **settings: str) -> AsyncIterator[Service]:
    """The service, while the fake goes on answering."""
    service = Service(data, **STOPS | dsw.environment | settings)
    try:
        await asyncio.to_thread(service.start)
        yield service
    finally:
        await asyncio.to_thread(service.__exit__)


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{data / 'dswbot.db'}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def told(data: Path) -> list[str]:
    """The kinds of the notices, in their order."""
    return [kind for (kind,) in rows(data, "SELECT kind FROM alerts ORDER BY id")]


async def until(happened: Callable[[], bool], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


def hasten(data: Path) -> bool:
    """Lets what is to be tried again later be tried now. A tick in between may undo it, so it wants repeating."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    with closing(sqlite3.connect(data / "dswbot.db")) as db, db:
        db.execute(
            "UPDATE watches SET memory = json_set(memory, '$.next_try_at', ?)"
            " WHERE json_extract(memory, '$.next_try_at') > ?", [now, now],
        )  # fmt: skip
    return True


def stops(dsw: FakeDsw) -> int:
    return sum(call.operation == "StopInstance" for call in dsw.calls)


def status(dsw: FakeDsw) -> str:
    dsw.world.settle()
    return dsw.world.instances[ID].status


async def test_an_idle_instance_is_stopped_once_and_a_message_wakes_it(data: Path, dsw: FakeDsw):
    async with serving(data, dsw) as service:
        client = await asyncio.to_thread(service.new_client, "demo")
        await until(lambda: "stopped" in told(data))
        assert [kind for kind in told(data) if kind in ("warned", "stopped")] == ["warned", "stopped"]
        assert status(dsw) == "Stopped"
        await asyncio.sleep(1)  # ticks in which nothing is left to do
        assert stops(dsw) == 1
        assert not dsw.done("StartInstance")

        headers = {"Authorization": f"Bearer {client['key']}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.post(f"{service.url}/webhooks/demo", json={"text": "Hello!"}) as response:
                assert response.status == 200
                assert (await response.json())["reply"]["text"]
        assert len(dsw.done("StartInstance")) == 1
        assert status(dsw) == "Running"
        assert told(data).count("woken") == 1
        assert stops(dsw) == 1


async def test_a_service_on_the_instance_gives_its_receipt_before_the_stop(data: Path, dsw: FakeDsw):
    seen: list[list[str]] = []
    instance = dsw.world.instances[ID]
    stop = instance.stop
    instance.stop = lambda now, **given: (seen.append(told(data)), stop(now, **given))
    async with serving(data, dsw, **HERE):
        await until(lambda: status(dsw) == "Stopped")
    assert seen == [["warned", "stopped"]]
    assert stops(dsw) == 1


async def test_a_dry_run_and_a_service_that_may_not_stop_only_tell(tmp_path: Path, dsw: FakeDsw):
    async def tells(notice: str, **setting: str) -> None:
        data = tmp_path / notice
        async with serving(data, dsw, **setting) as service:
            await until(lambda: notice in told(data))
            await asyncio.sleep(1.5)
            assert any("a notice to the operators" in line for line in service.output)
        assert told(data).count(notice) == 1
        assert "warned" not in told(data)

    await asyncio.gather(tells("dry_run", DSWBOT_DSW__DRY_RUN="true"), tells("idle", DSWBOT_DSW__ALLOW_STOP="false"))
    assert status(dsw) == "Running"
    assert {call.instance for call in dsw.calls} >= {ID}
    assert not [call for call in dsw.calls if not call.operation.startswith(("Get", "List"))]


async def test_a_service_that_is_killed_leaves_a_timer_that_stops_the_instance(data: Path, dsw: FakeDsw):
    instance = dsw.world.instances[ID]
    async with serving(data, dsw, **HERE, DSWBOT_IDLE__AFTER="1h", DSWBOT_DSW__TIMER="90m") as service:
        await until(lambda: instance.timer is not None and instance.culler is not None)
        await asyncio.to_thread(service.kill)
    due = instance.timer.due
    assert timedelta(minutes=89) < due - datetime.now(UTC) <= timedelta(minutes=90)
    assert status(dsw) == "Running"
    dsw.world.clock = lambda: due + timedelta(seconds=1)
    assert status(dsw) == "Stopped"
    assert "ShutdownTimer" in [entry.code for entry in instance.sessions[-1]]
    assert stops(dsw) == 0


async def test_a_restart_in_the_middle_of_the_warning_warns_once_and_stops_once(data: Path, dsw: FakeDsw):
    async with serving(data, dsw, DSWBOT_IDLE__WARN_FOR="3s") as service:
        await until(lambda: "warned" in told(data))
        await asyncio.to_thread(service.kill)
        assert stops(dsw) == 0
        await asyncio.to_thread(service.start)
        await until(lambda: "stopped" in told(data))
    assert told(data).count("warned") == told(data).count("stopped") == 1
    assert stops(dsw) == 1


async def test_a_stop_that_dsw_refuses_is_told_and_made_again_until_it_succeeds(data: Path, dsw: FakeDsw):
    dsw.faults.until_healed("StopInstance", REFUSED)
    async with serving(data, dsw):
        await until(lambda: hasten(data) and "stop_failed" in told(data))
        assert stops(dsw) >= 3
        assert status(dsw) == "Running"
        dsw.faults.heal()
        await until(lambda: hasten(data) and "stopped" in told(data))
    assert told(data).count("stop_failed") == 1
    assert len(dsw.done("StopInstance")) == 1


async def test_a_stop_command_stops_a_machine_without_dsw_once(data: Path, tmp_path: Path, dsw: FakeDsw):
    ran = tmp_path / "ran"
    command = f"sh,-c,echo $DSWBOT_REASON >> {ran}"
    async with serving(data, dsw, DSWBOT_DSW__INSTANCE_ID="", DSWBOT_IDLE__STOP_COMMAND=command):
        await until(ran.exists)
        await asyncio.sleep(2)
    assert ran.read_text() == "idle\n"
    assert told(data) == ["warned", "stopped"]
    assert dsw.calls == []


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"DSWBOT_DSW__INSTANCE_ID": ""}, "set dsw.instance_id, or idle.stop_command"),
        ({"DSWBOT_DSW__ALLOW_INSTANCES": "dsw-2,dsw-3"}, "add it, or set dsw.allow_stop = false"),
        ({"DSWBOT_DSW__REGION": ""}, "dsw.region"),
        ({"DSWBOT_ALERTS__URLS": "nonsense"}, "alerts.urls"),
        ({"DSWBOT_ALERTS__WEBHOOK_CLIENTS": "nobody"}, "dswbot client new nobody"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_that_names_the_cure(data: Path, settings: dict[str, str], cure: str):
    done = Service(data, **STOPS | settings).run("serve", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert cure in line
