"""Replies by callback, from the real service: in order, signed, at least once, whatever dies."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.callback_receiver import Answer, CallbackReceiver, Completed
from tests.service import Service

ALLOWED = {"DSWBOT_WEBHOOKS__ALLOW_HOSTS": "127.0.0.1"}


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose callbacks may reach 127.0.0.1."""
    with Service(tmp_path_factory.mktemp("callbacks") / "data", **ALLOWED) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[CallbackReceiver]:
    async with CallbackReceiver() as running:
        yield running
        assert running.violations == []


def new_client(service: Service, name: str, url: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return service.run("client", "new", name, "--callback-url", url, check=check)


class Shop:
    """A client that asks for callbacks."""

    def __init__(self, service: Service, name: str, receiver: CallbackReceiver) -> None:
        self._service = service
        self._name = name
        made = json.loads(new_client(service, name, receiver.url).stdout)
        self._headers = {"Authorization": f"Bearer {made['key']}"}
        receiver.secret = made["secret"]

    async def post(self, text: str, conversation: str | None = None, **headers: str) -> tuple[int, dict]:
        body = {"text": text, "reply": "callback", **({"conversation": conversation} if conversation else {})}
        async with (
            aiohttp.ClientSession(headers={**self._headers, **headers}) as http,
            http.post(f"{self._service.url}/webhooks/{self._name}", json=body) as response,
        ):
            return response.status, await response.json()

    async def look(self, identifier: str) -> dict:
        async with (
            aiohttp.ClientSession(headers=self._headers) as http,
            http.get(f"{self._service.url}/webhooks/{self._name}/messages/{identifier}") as response,
        ):
            return await response.json()


async def test_the_reply_is_posted_once_to_the_client_s_url(inside: Service, receiver: CallbackReceiver) -> None:
    shop = Shop(inside, "shop", receiver)
    status, receipt = await shop.post("Hello!", "room", **{"Idempotency-Key": "once"})
    assert (status, receipt) == (202, {"id": receipt["id"], "status": "queued"})
    (callback,) = (await receiver.wait_for(lambda: receiver.acknowledged, timeout=30)).values()
    assert (callback.type, callback.data.id, callback.data.conversation) == ("reply.completed", receipt["id"], "room")
    assert isinstance(callback.data, Completed)
    assert callback.data.reply.text
    assert json.loads(receiver.attempts[0].raw)["data"] | {"status": "done"} == await shop.look(receipt["id"])

    again = await shop.post("Hello!", "room", **{"Idempotency-Key": "once"})
    assert again == (202, {"id": receipt["id"], "status": "done"})
    assert (await shop.post("Bye!", "room", **{"Idempotency-Key": "once"}))[0] == 422
    await asyncio.sleep(2)
    assert len(receiver.attempts) == 1


async def test_a_message_that_failed_is_told_too(inside: Service, receiver: CallbackReceiver) -> None:
    shop = Shop(inside, "wordy", receiver)
    _, receipt = await shop.post("word " * 3000)
    (callback,) = (await receiver.wait_for(lambda: receiver.acknowledged, timeout=30)).values()
    assert (callback.type, callback.data.id) == ("reply.failed", receipt["id"])
    assert "1024" in callback.data.error
    assert (await shop.look(receipt["id"]))["status"] == "failed"


async def test_a_conversation_s_callbacks_keep_their_order_while_one_is_tried_again(
    inside: Service, receiver: CallbackReceiver
) -> None:
    shop = Shop(inside, "orderly", receiver)
    receiver.plan.append(Answer(503))  # one fault: two of them might meet the same callback, which then waits long
    rooms = {room: [(await shop.post(f"Number {n}.", room))[1]["id"] for n in range(3)] for room in ("a", "b")}
    await receiver.wait_for(lambda: len(receiver.acknowledged) == 6, timeout=60)
    assert {room: receiver.order(room) for room in rooms} == rooms
    assert len(receiver.attempts) == 7


async def test_a_killed_service_tells_again_what_was_not_acknowledged(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    receiver.plan.append(Answer(hang=30))
    with Service(tmp_path / "data", **ALLOWED) as service:
        shop = Shop(service, "shop", receiver)
        ids = [(await shop.post(f"Number {n}.", "room"))[1]["id"] for n in range(3)]
        await receiver.wait_for(lambda: receiver.attempts, timeout=30)
        service.kill()
        await asyncio.to_thread(service.start)
        await receiver.wait_for(lambda: len(receiver.acknowledged) == 3, timeout=60)
        assert receiver.order("room") == ids
        assert receiver.attempts[0].id == receiver.attempts[1].id


async def test_a_callback_that_leads_inside_is_given_up_and_says_the_cure(service: Service) -> None:
    made = json.loads(new_client(service, "insider", "https://localhost:1/").stdout)
    body = {"text": "Hello!", "reply": "callback"}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {made['key']}"}) as http,
        http.post(f"{service.url}/webhooks/insider", json=body) as response,
    ):
        assert response.status == 202
    for _ in range(60):
        line = next((one for one in service.run("outbox", "list").stdout.splitlines() if "insider" in one), "")
        if "dead" in line:
            break
        await asyncio.sleep(0.5)
    assert "webhooks.allow_hosts" in line


async def test_a_client_without_a_url_is_told_how_to_get_one(service: Service, demo: dict[str, str]) -> None:
    body = {"text": "Hello!", "reply": "callback"}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {demo['key']}"}) as http,
        http.post(f"{service.url}/webhooks/demo", json=body) as response,
    ):
        assert response.status == 400
        assert "--callback-url" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "url", ["shop.example", "http://shop.example/", "https://10.0.0.1/", "https://u:p@shop.example/"]
)
def test_a_bad_callback_url_is_refused_in_one_line(inside: Service, url: str) -> None:
    refused = new_client(inside, "bad", url, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "bad" not in inside.run("client", "list").stdout
