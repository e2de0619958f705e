"""A strict receiver of callbacks for tests: it verifies by itself what Standard Webhooks 1.0 and our contract say.

    async with CallbackReceiver(secret) as receiver:
        receiver.plan += [Answer(500), Answer(429, retry_after="2"), DROP]
        ...  # what posts to receiver.url
        assert [attempt.answered for attempt in receiver.attempts] == [500, 429, None, 200]
        assert receiver.violations == []

What is wrong with a post is answered with 400 and noted in `violations`. A post that is right gets the plan's
next answer, and once the plan is empty what `respond` says: 200, unless told otherwise.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Annotated, Literal, Self, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

T = TypeVar("T")

PATH = "/callbacks"
TOLERANCE = 300  # seconds
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SIGNATURE = re.compile(r"v\d+a?,[A-Za-z0-9+/]+={0,2}")
Count = Annotated[int, Meta(ge=0)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has exactly these fields."""


class Usage(Strict, frozen=True):
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count


class Reply(Strict, frozen=True):
    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    usage: Usage


class Completed(Strict, frozen=True):
    id: Annotated[str, Meta(min_length=1)]
    conversation: Annotated[str, Meta(min_length=1)]
    reply: Reply


class Failed(Strict, frozen=True):
    id: Annotated[str, Meta(min_length=1)]
    conversation: Annotated[str, Meta(min_length=1)]
    error: Annotated[str, Meta(min_length=1)]


class Envelope(Strict, frozen=True):
    type: Literal["reply.completed", "reply.failed"]
    timestamp: Annotated[datetime, Meta(tz=True)]
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Body:
    """What a callback says; `data` is Failed where the type is reply.failed."""

    type: str
    timestamp: datetime
    data: Completed | Failed


@dataclass(frozen=True, slots=True)
class Answer:
    """How a post is answered, after `hang` seconds. The body takes `slow` seconds; dropped: there is no answer."""

    status: int = 200
    retry_after: str = ""
    location: str = ""
    body: bytes = b""
    hang: float = 0
    slow: float = 0
    dropped: bool = False


OK = Answer()
DROP = Answer(dropped=True)  # it was read, and the connection closes without an answer


@dataclass(frozen=True, slots=True)
class Attempt:
    """One post. `body` is None where it was refused; `answered` where it was dropped."""

    id: str
    at: float  # time.monotonic()
    body: Body | None
    answered: int | None
    raw: bytes


class Violation(Exception):
    """What a sender must never do."""


class CallbackReceiver:
    """Listens on 127.0.0.1. `secret`, `plan` and `respond` may be changed while it runs.

    A client's secret comes from making it with the receiver's url: until it is set, nothing is right.
    """

    def __init__(
        self, secret: str = "", *, port: int = 0, respond: Callable[[Body], Answer] = lambda _body: OK
    ) -> None:
        self.secret = secret
        self.plan: deque[Answer] = deque()
        self.respond = respond
        self.attempts: list[Attempt] = []
        self.violations: list[str] = []
        self.cut_short = 0  # answers that the sender did not hear to their end
        self.url = ""
        self._port = port
        self._bodies: dict[str, bytes] = {}  # by webhook-id
        self._ids: dict[str, str] = {}  # webhook-id by message
        self._busy: set[str] = set()  # conversations with a post that is not answered yet
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.02)

    async def __aenter__(self) -> Self:
        if self.secret:
            _key(self.secret)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}{PATH}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def acknowledged(self) -> dict[str, Body]:
        """By webhook-id, in the order in which each was first answered with a 2xx."""
        heard: dict[str, Body] = {}
        for attempt in self.attempts:
            if attempt.body and attempt.answered and 200 <= attempt.answered < 300:
                heard.setdefault(attempt.id, attempt.body)
        return heard

    def order(self, conversation: str) -> list[str]:
        """The messages of a conversation, by their ids, in the order in which each was first posted."""
        posted = (attempt.body.data for attempt in self.attempts if attempt.body)
        return list(dict.fromkeys(data.id for data in posted if data.conversation == conversation))

    async def wait_for(self, predicate: Callable[[], T], timeout: float = 10) -> T:
        """The predicate's first true value; TimeoutError, with all that happened, after so many seconds."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > deadline:
                story = [(attempt.id, attempt.answered) for attempt in self.attempts]
                raise TimeoutError(f"not within {timeout} s; attempts {story}, violations {self.violations}")
            await asyncio.sleep(0.01)
        return value

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        arrived, raw = time.monotonic(), await request.read()
        identifier = request.headers.get("webhook-id", "")
        try:
            body = self._checked(request, raw)
        except Violation as violation:
            self.violations.append(f"{identifier or 'a post without an id'}: {violation}")
            self.attempts.append(Attempt(identifier, arrived, None, 400, raw))
            return web.Response(status=400)
        answer = self.plan.popleft() if self.plan else self.respond(body)
        status = None if answer.dropped else answer.status
        self.attempts.append(Attempt(identifier, arrived, body, status, raw))
        with self._alone(body.data.conversation):
            await asyncio.sleep(answer.hang)
        try:
            return await _answered(request, answer)
        except (ConnectionError, asyncio.CancelledError):
            self.cut_short += 1
            raise

    def _checked(self, request: web.Request, raw: bytes) -> Body:
        """What the post says, if everything about it is right."""
        if (request.method, request.path_qs) != ("POST", PATH):
            raise Violation(f"{request.method} {request.path_qs}, which nobody was told to call")
        for name in ("Authorization", "Cookie"):
            if name in request.headers:
                raise Violation(f"it brings a header {name}")
        if not re.fullmatch(r"application/json(; ?charset=utf-8)?", _only(request, "Content-Type"), re.IGNORECASE):
            raise Violation(f"its Content-Type is {request.headers['Content-Type']}")
        identifier = _only(request, "webhook-id")
        if not ID.fullmatch(identifier):
            raise Violation("its id is none")
        verify(self.secret, identifier, _only(request, "webhook-timestamp"), _only(request, "webhook-signature"), raw)
        if self._bodies.setdefault(identifier, raw) != raw:
            raise Violation("its body is another one than before")
        body = parse(raw)
        if self._ids.setdefault(body.data.id, identifier) != identifier:
            raise Violation(f"message {body.data.id} came as {self._ids[body.data.id]} before")
        return body

    @contextlib.contextmanager
    def _alone(self, conversation: str) -> Iterator[None]:
        """Notes where a conversation's next post does not wait for the answer to the one before."""
        if conversation in self._busy:
            self.violations.append(f"two posts at once in the conversation {conversation}")
        self._busy.add(conversation)
        try:
            yield
        finally:
            self._busy.discard(conversation)


def _key(secret: str) -> bytes:
    prefix, _, encoded = secret.partition("_")
    key = base64.b64decode(encoded, validate=True)
    assert prefix == "whsec", "a secret begins with whsec_"
    assert 24 <= len(key) <= 64, "a secret has 24 to 64 bytes"
    return key


def _only(request: web.Request, name: str) -> str:
    values = request.headers.getall(name, [])
    if len(values) != 1:
        raise Violation(f"it has {len(values)} headers {name}")
    return values[0]


def verify(secret: str, identifier: str, timestamp: str, signatures: str, raw: bytes) -> None:
    """Raises Violation."""
    if not secret:
        raise Violation("the receiver has no secret yet")
    if not re.fullmatch(r"[1-9]\d{0,11}", timestamp, re.ASCII) or abs(time.time() - int(timestamp)) > TOLERANCE:
        raise Violation(f"its timestamp {timestamp} is not now")
    if not all(SIGNATURE.fullmatch(one) for one in signatures.split(" ")):
        raise Violation("its signatures are malformed")
    expected = hmac.digest(_key(secret), f"{identifier}.{timestamp}.".encode() + raw, hashlib.sha256)
    for one in signatures.split(" "):
        version, _, encoded = one.partition(",")
        with contextlib.suppress(binascii.Error):
            if version == "v1" and hmac.compare_digest(base64.b64decode(encoded, validate=True), expected):
                return
    raise Violation("no signature is right")


def parse(raw: bytes) -> Body:
    """Raises Violation."""
    try:
        envelope = msgspec.json.decode(raw, type=Envelope)
        kind = Failed if envelope.type == "reply.failed" else Completed
        return Body(envelope.type, envelope.timestamp, msgspec.json.decode(envelope.data, type=kind))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Violation(f"its body is not what was promised: {error}") from None


async def _answered(request: web.Request, answer: Answer) -> web.StreamResponse:
    if answer.dropped:
        if request.transport:
            request.transport.close()
        return web.Response()
    response = web.StreamResponse(status=answer.status)
    if answer.retry_after:
        response.headers["Retry-After"] = answer.retry_after
    if answer.location:
        response.headers["Location"] = answer.location
    await response.prepare(request)
    until = time.monotonic() + answer.slow
    while time.monotonic() < until:
        await response.write(b" ")
        await asyncio.sleep(0.05)
    await response.write(answer.body)
    await response.write_eof()
    return response
