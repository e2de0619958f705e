"""Webhook clients: a message in, a reply out, once."""

import asyncio
import json

import aiohttp
import pytest

from tests.service import Service


@pytest.fixture
async def http(service: Service, demo: dict[str, str]) -> aiohttp.ClientSession:
    async with aiohttp.ClientSession(f"{service.url}/", headers={"Authorization": f"Bearer {demo['key']}"}) as session:
        yield session


async def post(http: aiohttp.ClientSession, body: object, path: str = "webhooks/demo", **headers: str):
    async with http.post(path, json=body, headers=headers) as response:
        return response.status, await response.json()


async def events(http: aiohttp.ClientSession, body: object, **headers: str) -> list[tuple[str, dict]]:
    async with http.post("webhooks/demo", json=body, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        blocks = (await response.text()).strip().split("\n\n")
    parsed = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if block[0] != ":"]
    return [(block["event"], json.loads(block["data"])) for block in parsed]


async def test_wait_answers_in_the_response(http: aiohttp.ClientSession):
    status, answer = await post(http, {"text": "Hello!", "conversation": "room-1"})
    assert status == 200
    assert set(answer) == {"id", "conversation", "reply"}
    assert answer["conversation"] == "room-1"
    assert answer["reply"]["text"]
    assert answer["reply"]["finish_reason"] in ("stop", "length")
    assert answer["reply"]["usage"]["completion_tokens"] > 0
    async with http.get(f"webhooks/demo/messages/{answer['id']}") as response:
        assert await response.json() == {**answer, "status": "done"}


async def test_stream_gives_the_text_piece_by_piece_and_the_whole_at_the_end(http: aiohttp.ClientSession):
    heard = await events(http, {"text": "Tell me about the sea.", "reply": "stream"})
    names = [name for name, _ in heard]
    assert (names[0], names[-1]) == ("accepted", "done")
    assert names.count("delta") > 5
    text = "".join(data["text"] for name, data in heard if name == "delta")
    assert text.strip() == heard[-1][1]["reply"]["text"]
    assert heard[0][1]["id"] == heard[-1][1]["id"]


async def test_a_conversation_goes_on_and_another_starts_from_nothing(http: aiohttp.ClientSession):
    sizes = []
    for conversation in ("room-2", "room-2", None):
        body = {"text": "Hello!", **({"conversation": conversation} if conversation else {})}
        sizes.append((await post(http, body))[1]["reply"]["usage"]["prompt_tokens"])
    assert sizes[1] > sizes[0] == sizes[2]


async def test_the_same_idempotency_key_is_the_same_message(http: aiohttp.ClientSession):
    body = {"text": "Hello!", "conversation": "room-3"}
    answers = await asyncio.gather(*(post(http, body, **{"Idempotency-Key": "once"}) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 200
    status, refused = await post(http, {**body, "text": "Bye!"}, **{"Idempotency-Key": "once"})
    assert (status, refused["error"]["code"]) == (422, "idempotency_key_reused")


async def test_messages_of_one_conversation_are_answered_in_their_order(http: aiohttp.ClientSession):
    posts = []
    for number in range(3):
        posts.append(asyncio.create_task(post(http, {"text": f"Number {number}.", "conversation": "room-4"})))
        await asyncio.sleep(0.05)
    prompts = [(await one)[1]["reply"]["usage"]["prompt_tokens"] for one in posts]
    assert prompts == sorted(prompts)
    assert len(set(prompts)) == 3


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": 1}, "text"),
        ({"text": "x", "conversation": ""}, "conversation"),
        ({"text": "x", "reply": "pigeon"}, "pigeon"),
        ({"text": "x", "reply": "callback"}, "callback"),
        ({"text": "x", "extra": 1}, "extra"),
    ],
)
async def test_a_bad_body_is_refused_by_name(http: aiohttp.ClientSession, body: object, told: str):
    status, answer = await post(http, body)
    assert status == 400
    assert told in answer["error"]["message"]


async def test_a_message_that_can_never_fit_fails_with_its_reason(http: aiohttp.ClientSession):
    status, answer = await post(http, {"text": "word " * 3000})
    assert (status, answer["error"]["code"]) == (422, "message_failed")
    assert "1024" in answer["error"]["message"]


async def test_a_long_conversation_drops_its_oldest_turns_and_goes_on(http: aiohttp.ClientSession):
    for number in range(4):
        status, answer = await post(http, {"text": f"{number} " + "word " * 250, "conversation": "room-5"})
        assert status == 200
    assert answer["reply"]["usage"]["prompt_tokens"] < 1024


async def test_a_client_speaks_only_for_itself(service: Service, http: aiohttp.ClientSession, key: str):
    other = service.new_client("other")
    status, answer = await post(http, {"text": "x"}, "webhooks/other")
    assert (status, answer["error"]["code"]) == (404, "unknown_client")
    _, mine = await post(http, {"text": "Hello!"})
    async with http.get(
        f"webhooks/other/messages/{mine['id']}", headers={"Authorization": f"Bearer {other['key']}"}
    ) as response:
        assert response.status == 404
    assert (await post(http, {"text": "x"}, Authorization=f"Bearer {key}"))[0] == 403


async def test_a_disabled_client_is_refused_and_a_rotated_key_is_dead(service: Service):
    old = service.new_client("turncoat")
    async with aiohttp.ClientSession(f"{service.url}/") as http:
        call = {"body": {"text": "Hi"}, "path": "webhooks/turncoat"}
        service.run("client", "disable", "turncoat")
        assert (await post(http, **call, Authorization=f"Bearer {old['key']}"))[0] == 403
        service.run("client", "enable", "turncoat")
        new = json.loads(service.run("client", "rotate", "turncoat").stdout)
        assert (await post(http, **call, Authorization=f"Bearer {old['key']}"))[0] == 401
        assert (await post(http, **call, Authorization=f"Bearer {new['key']}"))[0] == 200
