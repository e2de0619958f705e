"""Processes die; messages do not."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
import time
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.service import Service


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def rows(data: Path, query: str) -> list[tuple]:
    with sqlite3.connect(f"file:{data / 'dswbot.db'}?mode=ro", uri=True) as db:
        return db.execute(query).fetchall()


async def test_killing_the_worker_in_mid_answer_does_not_end_the_answer(service: Service, key: str):
    """What was said stays, and it goes on to its full length. That the new words are right: test_engine."""
    call = {
        "model": "embedded", "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
        "max_tokens": 120, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as http:

        async def answer(kill_at: int | None = None) -> tuple[list[str], int]:
            parts: list[str] = []
            tokens = 0
            async for chunk in await http.chat.completions.create(**call):
                if not chunk.choices:
                    tokens = chunk.usage.completion_tokens
                    continue
                parts.append(chunk.choices[0].delta.content or "")
                if len(parts) == kill_at:
                    os.kill(service.worker_pid, signal.SIGKILL)
            return parts, tokens

        undisturbed, tokens = await answer()
        resumed, tokens_resumed = await answer(kill_at=20)
        assert "".join(resumed).startswith("".join(undisturbed[:18]))
        assert tokens == tokens_resumed == 120


async def test_a_stopped_worker_is_noticed_at_shutdown_and_killed(data: Path):
    with Service(data) as service:
        worker = service.worker_pid
        os.kill(worker, signal.SIGSTOP)
        assert service.stop() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


async def test_a_stopped_worker_does_not_outlive_a_killed_service(data: Path):
    service = Service(data).start()
    worker = service.worker_pid
    os.kill(worker, signal.SIGSTOP)
    service.kill()
    ends = time.monotonic() + 2
    while (alive := Path(f"/proc/{worker}").exists()) and time.monotonic() < ends:
        await asyncio.sleep(0.1)
    assert not alive


async def test_killing_the_service_between_intake_and_reply_still_gives_one_reply(data: Path):
    service = Service(data).start()
    client = service.new_client("demo")
    headers = {"Authorization": f"Bearer {client['key']}", "Idempotency-Key": "the-one"}
    body = {"text": "Tell me a long story.", "conversation": "room"}

    async def post() -> dict:
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{service.url}/webhooks/demo", json=body, headers=headers) as response:
                return await response.json()

    asking = asyncio.create_task(post())
    while not data.joinpath("dswbot.db").exists() or not rows(data, "SELECT 1 FROM inbox WHERE state = 'claimed'"):
        await asyncio.sleep(0.02)
    worker = service.worker_pid
    service.kill()
    with pytest.raises(aiohttp.ClientError):
        await asking
    await asyncio.sleep(0.5)
    assert not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]

    service.start()
    try:
        answer = await post()
        assert answer["reply"]["text"]
        assert rows(data, "SELECT state, attempts, fence FROM inbox") == [("done", 0, 2)]
        assert [role for (role,) in rows(data, "SELECT role FROM messages ORDER BY id")] == [
            "user",
            "assistant",
        ]
        assert await post() == answer
    finally:
        service.stop()


def test_sigterm_stops_within_the_deadline_with_exit_code_0(data: Path):
    service = Service(data).start()
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 5


def test_the_data_directory_is_private_and_has_one_user(data: Path):
    with Service(data) as service:
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        for file in data.rglob("*"):
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
        second = service.run("serve", check=False)
    assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
    assert "already uses this data directory" in second.stderr


def test_a_port_that_is_taken_is_one_line(data: Path, service: Service):
    port = service.url.rpartition(":")[2]
    other = Service(data, DSWBOT_SERVER__PORT=port)
    failed = other.run("serve", check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("dswbot: The address is in use")


def test_a_model_that_can_not_be_loaded_is_one_line(data: Path, tmp_path: Path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(1000))
    failed = Service(data, DSWBOT_MODEL__PATH=str(bad)).run("serve", check=False)
    assert failed.returncode == 1
    assert "bad.gguf can't be loaded" in failed.stderr.splitlines()[-1]


def test_the_idle_alert_fires_once_over_a_restart(data: Path):
    settings = {"DSWBOT_IDLE__AFTER": "8s", "DSWBOT_BUDGET__YUAN_PER_HOUR": "10"}
    with Service(data, **settings) as service:
        told = service.wait_for_line("The GPU has been idle for")
        assert "¥" in told.string
    with Service(data, **settings) as service:
        time.sleep(5)  # some ticks
        assert not [line for line in service.output if "has been idle" in line]
        assert len(rows(data, "SELECT 1 FROM alerts WHERE kind = 'idle'")) == 1
        client = service.new_client("demo")
        asyncio.run(one_message(service, client))
        service.wait_for_line("The GPU has been idle for")
        assert len(rows(data, "SELECT 1 FROM alerts WHERE kind = 'idle'")) == 2


async def one_message(service: Service, client: dict[str, str]) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {client['key']}"}) as http:
        async with http.post(f"{service.url}/webhooks/demo", json={"text": "Hi"}) as response:
            assert json.loads(await response.text())["reply"]["text"]
