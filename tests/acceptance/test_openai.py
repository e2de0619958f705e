"""The real openai client, and everything that a client can get wrong."""

import asyncio
import io
import json
import time

import aiohttp
import openai
import pytest

from tests.service import Service

ASK = [{"role": "user", "content": "Tell me about the sea."}]


@pytest.fixture
def client(service: Service, key: str) -> openai.OpenAI:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_the_openai_client_lists_the_models_that_are_on_disk(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").id == "embedded"


def test_the_openai_client_gets_a_whole_answer(client: openai.OpenAI):
    reply = client.chat.completions.create(model="embedded", messages=ASK, max_tokens=12, temperature=0)
    assert reply.choices[0].message.role == "assistant"
    assert len(reply.choices[0].message.content) > 10
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 12
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12


def test_the_openai_client_gets_the_same_answer_as_a_stream(client: openai.OpenAI):
    call = {"model": "embedded", "messages": ASK, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**call)
    chunks = list(client.chat.completions.create(**call, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].choices == []
    assert len(chunks) > 10


def test_without_include_usage_every_chunk_has_a_choice(client: openai.OpenAI):
    chunks = list(client.chat.completions.create(model="embedded", messages=ASK, max_tokens=4, stream=True))
    assert all(chunk.choices for chunk in chunks)


def test_a_seed_makes_an_answer_repeatable(client: openai.OpenAI):
    call = {"model": "embedded", "messages": ASK, "max_tokens": 16, "temperature": 1.5}
    first, again, other = (
        client.chat.completions.create(**call, seed=seed).choices[0].message.content for seed in (7, 7, 8)
    )
    assert first == again != other


def test_a_stop_string_ends_the_answer(client: openai.OpenAI):
    call = {"model": "embedded", "messages": ASK, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**call).choices[0].message.content
    word = whole.split()[5]
    stopped = client.chat.completions.create(**call, stop=[word]).choices[0]
    assert stopped.message.content == whole[: whole.index(word)]
    assert stopped.finish_reason == "stop"


def test_a_follow_up_computes_only_what_is_new(client: openai.OpenAI):
    first = client.chat.completions.create(model="embedded", messages=ASK, max_tokens=20, temperature=0)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    more = [*ASK, said, {"role": "user", "content": "Go on."}]
    usage = client.chat.completions.create(model="embedded", messages=more, max_tokens=4).usage
    assert usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens + 15


def test_a_prompt_longer_than_the_context_is_refused_and_says_so(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="embedded", messages=[{"role": "user", "content": "word " * 3000}])
    assert raised.value.code == "context_length_exceeded"
    assert "1024" in raised.value.message


async def post(service: Service, path: str, body: io.BytesIO | str, **headers: str) -> tuple[int, dict]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(service.url + path, data=body, headers=headers) as response,
    ):
        return response.status, await response.json()


GOOD = {"model": "embedded", "messages": ASK, "max_tokens": 2}


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        ("[" * 50_000, 400, "Expected `object`"),
        ("[]", 400, "Expected `object`"),
        ({"model": "embedded"}, 400, "messages"),
        ({**GOOD, "messages": []}, 400, "messages"),
        ({**GOOD, "messages": [{"role": "wizard", "content": "x"}]}, 400, "wizard"),
        ({**GOOD, "messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
        ({**GOOD, "wobble": 1}, 400, "wobble"),
        ({**GOOD, "temperature": "hot"}, 400, "temperature"),
        ({**GOOD, "temperature": 9}, 400, "temperature"),
        ({**GOOD, "max_tokens": 0}, 400, "max_tokens"),
        ({**GOOD, "stop": [""]}, 400, "stop"),
        ({**GOOD, "n": 2}, 400, "not supported"),
        ({**GOOD, "tools": [{"type": "function"}]}, 400, "not supported"),
        ({**GOOD, "model": "gpt-9"}, 404, "embedded"),
        ({**GOOD, "messages": [{"role": "user", "content": "x" * 1_100_000}]}, 413, "max_body"),
    ],
)
async def test_what_is_wrong_with_a_call_is_said_in_one_sentence(
    service: Service, key: str, body: object, status: int, told: str
):
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    got, answer = await post(service, "/v1/chat/completions", io.BytesIO(raw), **headers)
    assert got == status
    assert told in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in str(answer)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer dsw_wrong"}, 401),
        ({"Authorization": "Basic eDp5"}, 401),
        ({"Authorization": "Bearer \u00e9"}, 401),
    ],
)
async def test_without_a_good_key_nothing_is_served(service: Service, headers: dict[str, str], status: int):
    got, answer = await post(service, "/v1/chat/completions", "{}", **headers)
    assert got == status
    assert "dswbot key new" in answer["error"]["message"]


async def test_a_key_of_another_scope_and_a_revoked_one_are_refused(service: Service, demo: dict[str, str]):
    got, answer = await post(service, "/v1/chat/completions", "{}", Authorization=f"Bearer {demo['key']}")
    assert (got, answer["error"]["code"]) == (403, "wrong_scope")
    gone = service.new_key("gone")
    service.run("key", "revoke", "gone")
    assert (await post(service, "/v1/chat/completions", "{}", Authorization=f"Bearer {gone}"))[0] == 401


async def test_a_body_that_is_not_json_by_its_header_is_refused(service: Service, key: str):
    got, answer = await post(service, "/v1/chat/completions", "a=b", Authorization=f"Bearer {key}")
    assert got == 415
    assert "Content-Type" in answer["error"]["message"]


async def test_unknown_addresses_and_methods_answer_in_the_same_form(service: Service):
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{service.url}/nowhere") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_address")
        async with http.delete(f"{service.url}/healthz") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_health_tells_reasons_only_to_those_with_a_key(service: Service, key: str):
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{service.url}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        async with http.get(f"{service.url}/readyz") as response:
            assert (response.status, (await response.json())["ready"]) == (200, True)


async def ask(http: openai.AsyncOpenAI, number: int) -> float:
    began = time.monotonic()
    messages = [{"role": "user", "content": f"Tell me about the number {number}."}]
    reply = await http.chat.completions.create(model="embedded", messages=messages, max_tokens=32, temperature=0)
    assert reply.usage.completion_tokens > 0
    return time.monotonic() - began


async def test_eight_at_once_overlap(service: Service, key: str):
    """A queue would end them one after the other; batched, the first to end comes late and all come together."""
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key) as http:
        times = await asyncio.gather(*(ask(http, number) for number in range(8)))
    assert min(times) > 0.4 * max(times)


async def test_a_client_that_leaves_frees_its_place(service: Service, key: str):
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key) as http:
        streams = [
            await http.chat.completions.create(model="embedded", messages=ASK, max_tokens=900, stream=True)
            for _ in range(8)
        ]
        for stream in streams:
            await stream.close()
        await asyncio.wait_for(ask(http, 1), 20)


def test_control_tokens_that_somebody_types_are_text(client: openai.OpenAI):
    """Were they taken for what they say, the prompt would have the length of an empty message."""

    def count(text: str) -> int:
        messages = [{"role": "user", "content": text}]
        return client.chat.completions.create(model="embedded", messages=messages, max_tokens=1).usage.prompt_tokens

    assert count("<|im_end|>") > count("") + 3
