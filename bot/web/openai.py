"""OpenAI's API: `/v1/models` and `/v1/chat/completions`. Stateless: the client holds the history and retries."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import structlog
from aiohttp import web
from msgspec import UNSET, UnsetType

from bot.clock import now
from bot.conversation import Persona
from bot.door import Door
from bot.web import openai_types as o
from bot.web.auth import Keys
from bot.web.body import EventStream, json_response, parse, pinging, read_body
from bot.web.errors import ApiError, body_of, translate
from inference.engine import Engine
from inference.protocol import ChatMessage, Chunk, Request, Sampling, Usage
from storage import ledger
from storage.database import Database
from storage.errors import StorageError

log = structlog.get_logger()

DOOR_SHUT = 60  # seconds after which to ask again


class OpenAi:
    """The handlers of `/v1`."""

    def __init__(self, engine: Engine, db: Database, keys: Keys, persona: Persona, models: list[str], *,
                 door: Door | None = None) -> None:  # fmt: skip
        self._engine = engine
        self._db = db
        self._keys = keys
        self._persona = persona
        self._models = models
        self._door = door or Door()
        self._started = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model}", self.show_model),
            web.post("/v1/chat/completions", self.complete),
        ]

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        await self._keys.require(request, "chat")
        return json_response(o.ModelList(tuple(self._entry(name) for name in self._models)))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        await self._keys.require(request, "chat")
        return json_response(self._entry(self._known(request.match_info["model"])))

    def _entry(self, name: str) -> o.ModelEntry:
        return o.ModelEntry(name, self._started, "dswbot")

    def _known(self, name: str) -> str:
        if name not in self._models:
            raise ApiError(
                404, f"There is no model {name!r} here; there is {', '.join(self._models)}.",
                code="model_not_found", param="model",
            )  # fmt: skip
        return name

    async def complete(self, request: web.Request) -> web.StreamResponse:
        key = await self._keys.require(request, "chat")
        call = parse(await read_body(request), o.ChatCompletionRequest)
        self._known(call.model)
        if not self._door.open:
            raise ApiError(503, f"No new work now: {self._door.reason}.", code="instance_stopping",
                           headers={"Retry-After": str(DOOR_SHUT)})  # fmt: skip
        answer = _Answer(self, call, key.name)
        return await (answer.stream(request) if call.stream else answer.whole())

    def request(self, call: o.ChatCompletionRequest, client: str) -> Request:
        """What the engine is asked for. `client`: whom it counts for where many wait."""
        return Request(
            messages=tuple(
                ChatMessage("system" if m.role == "developer" else m.role, m.text) for m in call.messages
            ),
            sampling=Sampling(
                call.temperature, call.top_p, call.top_k, call.min_p,
                call.presence_penalty, call.frequency_penalty, call.seed,
            ),
            max_tokens=call.max_completion_tokens or call.max_tokens,
            stop=call.stops,
            thinking=self._persona.thinking if call.thinking is None else call.thinking,
            client=client,
        )  # fmt: skip

    def generate(self, call: o.ChatCompletionRequest, client: str) -> AsyncGenerator[Chunk, None]:
        return self._engine.generate(self.request(call, client))

    async def record(self, usage: ledger.Usage) -> None:
        """Writes the usage down; an answer is not lost because its bill can't be written."""
        try:
            async with self._db.write() as session:
                await ledger.record_usage(session, usage)
        except StorageError as error:
            log.error("the usage of a call could not be recorded", reason=str(error))


class _Answer:
    """One completion, whole or as a stream."""

    def __init__(self, api: OpenAi, call: o.ChatCompletionRequest, key_name: str) -> None:
        self._api = api
        self._call = call
        self._key_name = key_name
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._started = now()
        self._tokens = 0

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        """The engine's chunks; the usage is recorded however they end."""
        last: Chunk | None = None
        try:
            async with aclosing(self._api.generate(self._call, f"key {self._key_name}")) as chunks:
                async for last in chunks:
                    self._tokens += len(last.tokens)
                    yield last
        finally:
            if last:
                await self._api.record(self._ledger_entry(last, now()))

    def _ledger_entry(self, last: Chunk, finished: datetime) -> ledger.Usage:
        usage = last.usage or Usage(0, 0, self._tokens)
        return ledger.Usage(
            source="openai", key_name=self._key_name, model=self._call.model, prompt_tokens=usage.prompt,
            cached_tokens=usage.cached, completion_tokens=usage.completion,
            finish_reason=last.finish or "cancelled", started_at=self._started, finished_at=finished,
        )  # fmt: skip

    async def whole(self) -> web.StreamResponse:
        text, reasoning, last = "", "", Chunk(0)
        async with aclosing(self._chunks()) as chunks:
            async for last in chunks:
                text, reasoning = text + last.text, reasoning + last.reasoning
        message = o.Answer(text, "assistant", reasoning or UNSET)
        choice = o.Choice(0, message, last.finish or "stop")
        return json_response(
            o.ChatCompletion(self._id, self._created, self._call.model, (choice,), _report(last.usage))
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        events = EventStream(request)
        try:
            async with pinging(events), aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    await self._send(events, chunk)
                    if chunk.finish:  # the asker need not wait for the bill
                        await events.send("[DONE]")
                        await events.close()
        except Exception as error:
            told = translate(error)
            if not events.begun or told is None:
                raise
            await events.send(body_of(told))  # a bare end would look like a complete answer
        return await events.close()

    async def _send(self, events: EventStream, chunk: Chunk) -> None:
        if not events.begun or self._first:
            self._first = False
            await events.send(self._event(o.Delta(role="assistant", content="")))
        if chunk.reasoning:
            await events.send(self._event(o.Delta(reasoning_content=chunk.reasoning)))
        if chunk.text:
            await events.send(self._event(o.Delta(content=chunk.text)))
        if chunk.finish:
            await events.send(self._event(o.Delta(), chunk.finish))
            if self._wants_usage:
                await events.send(self._chunk((), _report(chunk.usage)))

    _first = True

    @property
    def _wants_usage(self) -> bool:
        return bool(self._call.stream_options and self._call.stream_options.include_usage)

    def _event(self, delta: o.Delta, finish: str | None = None) -> o.ChatCompletionChunk:
        return self._chunk((o.ChunkChoice(0, delta, finish),), None if self._wants_usage else UNSET)

    def _chunk(
        self, choices: tuple[o.ChunkChoice, ...], usage: o.UsageReport | UnsetType | None
    ) -> o.ChatCompletionChunk:
        return o.ChatCompletionChunk(self._id, self._created, self._call.model, choices, usage)


def _report(usage: Usage | None) -> o.UsageReport:
    usage = usage or Usage(0, 0, 0)
    return o.UsageReport(usage.prompt, usage.completion, usage.prompt + usage.completion, o.CachedTokens(usage.cached))
