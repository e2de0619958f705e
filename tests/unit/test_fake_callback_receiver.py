"""The fake receiver takes what is signed and shaped as promised, and nothing else."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.fakes.callback_receiver import DROP, Answer, CallbackReceiver, Completed

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
COMPLETED = (
    b'{"type":"reply.completed","timestamp":"2026-01-01T00:00:00Z","data":{"id":"msg_1","conversation":"room",'
    b'"reply":{"text":"Hi","finish_reason":"stop","usage":{"prompt_tokens":1,"cached_tokens":0,"completion_tokens":1}}}}'
)
FAILED = (
    b'{"type":"reply.failed","timestamp":"2026-01-01T00:00:00+08:00",'
    b'"data":{"id":"msg_2","conversation":"room","error":"no"}}'
)


@pytest.fixture
async def receiver() -> AsyncIterator[CallbackReceiver]:
    async with CallbackReceiver(SECRET) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def headers(body: bytes, identifier: str = "dlv_1", at: float = 0, key: bytes = KEY) -> dict[str, str]:
    timestamp = str(int(at or time.time()))
    signature = hmac.digest(key, f"{identifier}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "Content-Type": "application/json", "webhook-id": identifier, "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }  # fmt: skip


async def post(http, receiver, body: bytes = COMPLETED, **changes: str | None) -> int:
    sent = {**headers(body), **{name.replace("_", "-"): value for name, value in changes.items()}}
    kept = {name: value for name, value in sent.items() if value is not None}
    async with http.post(receiver.url, data=body, headers=kept, allow_redirects=False) as response:
        return response.status


async def test_what_is_right_is_taken_and_kept(http, receiver) -> None:
    assert await post(http, receiver) == 200
    async with http.post(receiver.url, data=FAILED, headers=headers(FAILED, "dlv_2")) as response:
        assert response.status == 200
    first, second = receiver.attempts
    assert (first.id, first.answered, first.body.type) == ("dlv_1", 200, "reply.completed")
    assert isinstance(first.body.data, Completed)
    assert first.body.data.reply.usage.prompt_tokens == 1
    assert second.body.data.error == "no"
    assert list(receiver.acknowledged) == ["dlv_1", "dlv_2"]
    assert receiver.order("room") == ["msg_1", "msg_2"]
    assert receiver.violations == []


async def test_another_key_signs_nothing_and_one_of_two_signatures_is_enough(http, receiver) -> None:
    right, wrong = headers(COMPLETED), headers(COMPLETED, key=bytes(32))
    both = f"v1a,AAAA {wrong['webhook-signature']} {right['webhook-signature']}"
    assert await post(http, receiver, webhook_signature=both) == 200
    assert await post(http, receiver, webhook_signature=wrong["webhook-signature"]) == 400
    assert "no signature is right" in receiver.violations[0]
    receiver.secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    assert await post(http, receiver, webhook_signature=wrong["webhook-signature"]) == 200


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"webhook_id": None}, "headers webhook-id"),
        ({"webhook_id": "a.b"}, "id is none"),
        ({"webhook_id": "dlv_9"}, "no signature"),
        ({"webhook_timestamp": None}, "headers webhook-timestamp"),
        ({"webhook_timestamp": "soon"}, "is not now"),
        ({"webhook_timestamp": "1.5e9"}, "is not now"),
        ({"webhook_signature": None}, "headers webhook-signature"),
        ({"webhook_signature": "garbage"}, "malformed"),
        ({"webhook_signature": "v1,é"}, "malformed"),
        ({"webhook_signature": "v1,A"}, "no signature"),
        ({"Content_Type": "text/plain"}, "Content-Type"),
        ({"Cookie": "a=b"}, "Cookie"),
        ({"Authorization": "Bearer x"}, "Authorization"),
    ],
)
async def test_a_wrong_header_is_a_violation(http, receiver, changes, complaint: str) -> None:
    assert await post(http, receiver, **changes) == 400
    (violation,) = receiver.violations
    assert complaint in violation
    assert (receiver.attempts[0].body, receiver.attempts[0].answered) == (None, 400)
    assert receiver.acknowledged == {}


@pytest.mark.parametrize("seconds", [-400, 400])
async def test_an_old_or_early_timestamp_is_a_violation(http, receiver, seconds: int) -> None:
    old = headers(COMPLETED, at=time.time() + seconds)
    assert await post(http, receiver, **{name.replace("-", "_"): value for name, value in old.items()}) == 400
    assert "is not now" in receiver.violations[0]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b"{}", COMPLETED.replace(b"completed", b"done"), COMPLETED.replace(b"completed", b"failed"),
        COMPLETED.replace(b"00Z", b"00"), COMPLETED.replace(b'"text":"Hi"', b'"text":null'),
        COMPLETED.replace(b'"stop"', b'"error"'), FAILED.replace(b'"no"', b'""'),
        COMPLETED[:-1] + b',"more":1}', COMPLETED.replace(b'"prompt_tokens":1', b'"prompt_tokens":-1'),
    ],
)  # fmt: skip
async def test_a_body_of_another_shape_is_a_violation(http, receiver, body: bytes) -> None:
    assert await post(http, receiver, body) == 400
    assert "not what was promised" in receiver.violations[0]


async def test_one_id_is_one_body_and_one_message_one_id(http, receiver) -> None:
    assert await post(http, receiver) == 200
    assert await post(http, receiver) == 200
    other = COMPLETED.replace(b"Hi", b"Ho")
    assert await post(http, receiver, other) == 400
    async with http.post(receiver.url, data=COMPLETED, headers=headers(COMPLETED, "dlv_2")) as response:
        assert response.status == 400
    assert ["another one than before" in receiver.violations[0], "dlv_1 before" in receiver.violations[1]] == [True] * 2


async def test_the_plan_is_followed_and_then_the_hook(http, receiver) -> None:
    receiver.plan += [Answer(500), Answer(429, retry_after="7"), Answer(302, location="/elsewhere"), Answer(410)]
    assert [await post(http, receiver) for _ in range(5)] == [500, 429, 302, 410, 200]
    receiver.respond = lambda body: Answer(503 if body.data.id == "msg_1" else 200)
    assert await post(http, receiver) == 503
    receiver.plan.append(Answer(429, retry_after="7"))
    async with http.post(receiver.url, data=COMPLETED, headers=headers(COMPLETED)) as response:
        assert response.headers["Retry-After"] == "7"


async def test_who_follows_a_redirect_is_caught(http, receiver) -> None:
    receiver.plan.append(Answer(307, location="/elsewhere"))
    async with http.post(receiver.url, data=COMPLETED, headers=headers(COMPLETED)) as response:
        assert response.status == 400
    assert "POST /elsewhere" in receiver.violations[0]


async def test_a_dropped_acknowledgement_was_an_attempt(http, receiver) -> None:
    receiver.plan.append(DROP)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(http, receiver)
    assert await post(http, receiver) == 200
    assert [attempt.answered for attempt in receiver.attempts] == [None, 200]
    assert receiver.attempts[0].at < receiver.attempts[1].at


async def test_hanging_and_slow_and_large_answers(http, receiver) -> None:
    receiver.plan += [Answer(hang=0.2), Answer(slow=0.2), Answer(body=bytes(1_000_000))]
    for least, size in ((0.2, 0), (0.2, 3), (0, 1_000_000)):
        begun = time.monotonic()
        async with http.post(receiver.url, data=COMPLETED, headers=headers(COMPLETED)) as response:
            assert len(await response.read()) >= size
        assert time.monotonic() - begun >= least


async def test_two_at_once_in_a_conversation_is_a_violation(http, receiver) -> None:
    receiver.plan += [Answer(hang=0.2), Answer(), Answer(hang=5), Answer()]
    await asyncio.gather(post(http, receiver), post(http, receiver))
    assert receiver.violations == ["two posts at once in the conversation room"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await post(http, receiver)
    await post(http, receiver)  # the one that gave up waiting is not under way any more
    assert len(receiver.violations) == 1


async def test_without_a_secret_nothing_is_right(http) -> None:
    async with CallbackReceiver() as receiver:
        assert await post(http, receiver) == 400
        receiver.secret = SECRET
        assert await post(http, receiver) == 200
        assert len(receiver.violations) == 1


async def test_a_secret_that_is_none_is_refused() -> None:
    for secret in ("whsec_QQ==", "secret_" + base64.b64encode(KEY).decode()):
        with pytest.raises(AssertionError):
            await CallbackReceiver(secret).__aenter__()


async def test_waiting_tells_what_happened(http, receiver) -> None:
    await post(http, receiver)
    with pytest.raises(TimeoutError, match=r"attempts \[\('dlv_1', 200\)\]"):
        await receiver.wait_for(lambda: False, timeout=0.05)
