"""Webhooks: `POST /webhooks/{client}` puts a message into a conversation that this service keeps.

A message is stored before anything is answered, so a client that is cut off asks again with the same
`Idempotency-Key`, or looks at `/webhooks/{client}/messages/{id}`; it is answered once all the same.
"""

import asyncio
import hashlib
import secrets
import time
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from bot.conversation import Turns
from bot.live import LiveTurn
from bot.patience import persistently
from bot.web.auth import Keys
from bot.web.body import EventStream, json_response, parse, read_body
from bot.web.errors import ApiError
from bot.web.lately import Lately
from bot.web.server import PARTING
from storage import clients, inbox
from storage.clients import ClientInfo
from storage.database import Database
from storage.inbox import Accepted, Incoming, Status

WAIT_LIMIT = 600.0  # seconds that a call may wait for its reply; then it is told where to look
LOOK_EVERY = 2.0  # seconds between looks at the table, in case another process answers
RETRY_LOOK = 0.5
FINAL = ("done", "failed")


class Post(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends."""

    text: Annotated[str, Meta(min_length=1)]
    conversation: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    reply: Literal["wait", "stream", "callback"] = "wait"


class UsageReport(msgspec.Struct, frozen=True):
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class ReplyReport(msgspec.Struct, frozen=True):
    text: str
    finish_reason: str
    usage: UsageReport


class MessageReport(msgspec.Struct, frozen=True):
    """Where a message stands."""

    id: str
    conversation: str
    status: str | UnsetType = UNSET
    reply: ReplyReport | UnsetType = UNSET
    error: str | UnsetType = UNSET


class TextDelta(msgspec.Struct, frozen=True):
    text: str


class Receipt(msgspec.Struct, frozen=True):
    """A message is accepted; its reply comes by callback."""

    id: str
    status: str


class Asked(msgspec.Struct, frozen=True):
    """What the inbox keeps of how the client wants its reply, where nobody waits for it."""

    reply: Literal["callback"]


class Restarted(msgspec.Struct, frozen=True):
    """The try that was shown so far has failed; what follows are the deltas of another, from the beginning."""


class Webhooks:
    """The handlers of `/webhooks`."""

    def __init__(self, db: Database, turns: Turns, keys: Keys) -> None:
        self._db = db
        self._turns = turns
        self._keys = keys
        self._lately: Lately[ClientInfo] = Lately()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/webhooks/{client}", self.post),
            web.get("/webhooks/{client}/messages/{id}", self.show),
        ]

    async def post(self, request: web.Request) -> web.StreamResponse:
        client = await self._client(request)
        body = await read_body(request)
        post = parse(body, Post)
        if post.reply == "callback" and not client.callback_url:
            raise ApiError(
                400,
                "reply: callback needs a client that was made with `dswbot client new NAME --callback-url URL`.",
                code="no_callback_url", param="reply",
            )  # fmt: skip
        incoming = _incoming(client.name, post, body, request.headers.get("Idempotency-Key", ""))
        accepted = await self._turns.accept(incoming)
        if accepted.body_hash != incoming.body_hash:
            raise ApiError(
                422, "This Idempotency-Key came with another body before: use a new key for a new message.",
                code="idempotency_key_reused",
            )  # fmt: skip
        if post.reply == "callback":
            return await self._receipt(accepted)
        with ExitStack() as stack:
            live = stack.enter_context(self._turns.follow(accepted.id))
            answer = self._stream(request, live) if post.reply == "stream" else self._wait(request, live)
            return await answer

    async def show(self, request: web.Request) -> web.StreamResponse:
        client = await self._client(request)
        async with self._db.read() as session:
            message = await inbox.by_public_id(session, request.match_info["id"])
            status = await inbox.status(session, message.id) if message else None
        if not status or not status.conversation_key.startswith(_prefix(client.name)):
            raise ApiError(404, "This client has sent no such message.", code="unknown_message")
        return json_response(_report(status, state=True))

    async def _client(self, request: web.Request) -> ClientInfo:
        """The client whose address is called, by a key that may speak for it."""
        key = await self._keys.require(request, "webhook")
        name = request.match_info["client"]
        client = await self._lately.get(name, partial(self._named, name))
        if client is None or (key.client_id is not None and key.client_id != client.id):
            raise ApiError(
                404, f"There is no webhook client {name!r} for this key: `dswbot client new {name}` makes one.",
                code="unknown_client",
            )  # fmt: skip
        if client.disabled:
            raise ApiError(403, f"The client is disabled: `dswbot client enable {name}`.", code="client_disabled")
        return client

    async def _named(self, name: str) -> ClientInfo | None:
        async with self._db.read() as session:
            return await clients.by_name(session, name)

    async def _receipt(self, accepted: Accepted) -> web.StreamResponse:
        state = "queued"
        if not accepted.created:
            async with self._db.read() as session:
                state = (await inbox.status(session, accepted.id)).state
        return json_response(Receipt(accepted.public_id, state), 202)

    async def _status(self, live: LiveTurn) -> Status:
        """The stored state, once the database tells it: whoever waits has been promised an answer."""

        async def look() -> Status:
            async with self._db.read() as session:
                return await inbox.status(session, live.message_id)

        return await persistently(look, "where a message stands")

    async def _settled(self, live: LiveTurn) -> Status:
        """The stored state, a little later where the turn was given back to be tried again."""
        status = await self._status(live)
        if live.ended and status.state not in FINAL:
            await asyncio.sleep(RETRY_LOOK)
        return status

    async def _wait(self, request: web.Request, live: LiveTurn) -> web.StreamResponse:
        deadline = time.monotonic() + WAIT_LIMIT
        while (status := await self._settled(live)).state not in FINAL:
            request[PARTING] = json_response(_report(status, state=True), 202)
            if time.monotonic() > deadline:
                return request[PARTING]
            await live.over(LOOK_EVERY)
        if status.state == "failed":
            raise _failure(status)
        return json_response(_report(status))

    async def _stream(self, request: web.Request, live: LiveTurn) -> web.StreamResponse:
        events = EventStream(request)
        status = await self._status(live)
        await events.send(_report(status, state=True), "accepted")
        shown, start = "", live.starts
        while status.state not in FINAL:
            changed = await live.changed(LOOK_EVERY)
            if live.starts != start and shown:
                await events.send(Restarted(), "restarted")
                shown = ""
            start = live.starts
            if len(live.text) > len(shown):
                text, shown = live.text[len(shown) :], live.text
                await events.send(TextDelta(text), "delta")
            if not changed:
                await events.ping()
            if live.ended or not changed:
                status = await self._settled(live)
        if status.reply and shown.strip() != status.reply.text:  # another gateway wrote it, or it was there already
            if not status.reply.text.startswith(shown):
                await events.send(Restarted(), "restarted")
                shown = ""
            await events.send(TextDelta(status.reply.text[len(shown) :]), "delta")
        await events.send(_report(status), "done" if status.state == "done" else "error")
        return await events.close()


def room(conversation_key: str) -> str:
    """A conversation by the client's own name for it."""
    return conversation_key.split(":", 2)[-1]


def wants_callback(meta: str) -> bool:
    """Whether a message's meta says that its reply goes to the client's URL."""
    return bool(meta) and msgspec.json.decode(meta, type=Asked).reply == "callback"


def _prefix(client: str) -> str:
    return f"webhook:{client}:"


def _incoming(client: str, post: Post, body: bytes, idempotency_key: str) -> Incoming:
    if len(idempotency_key) > 255:
        raise ApiError(400, "Idempotency-Key is longer than 255 characters.", code="invalid_field")
    conversation = post.conversation or f"conv_{secrets.token_hex(8)}"
    return Incoming(
        source=f"webhook:{client}",
        external_id=idempotency_key or f"auto_{secrets.token_hex(16)}",
        conversation_key=_prefix(client) + conversation,
        text=post.text,
        body_hash=hashlib.sha256(body).hexdigest(),
        meta=msgspec.json.encode(Asked(post.reply)).decode() if post.reply == "callback" else "",
    )


def _failure(status: Status) -> ApiError:
    return ApiError(422, f"{status.error} (message {status.public_id})", code="message_failed")


def _report(status: Status, *, state: bool = False) -> MessageReport:
    reply: ReplyReport | UnsetType = UNSET
    if status.reply:
        usage = UsageReport(status.reply.prompt_tokens, status.reply.cached_tokens, status.reply.completion_tokens)
        reply = ReplyReport(status.reply.text, status.reply.finish_reason, usage)
    return MessageReport(
        status.public_id, room(status.conversation_key),
        status.state if state else UNSET, reply, status.error or UNSET,
    )  # fmt: skip
