"""Reading a request's body into a struct, and writing structs back."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from aiohttp import web

from bot.web.errors import ApiError

T = TypeVar("T")

UNSUPPORTED = {"tools", "tool_choice", "n", "logprobs", "logit_bias", "response_format"}
PING_EVERY = 10.0  # seconds of silence after which a stream says that it is alive
BODY_TIMEOUT = 30.0  # seconds in which a body must have come


async def read_body(request: web.Request) -> bytes:
    """The raw JSON body. Raises ApiError 415, 408; aiohttp itself answers 413."""
    if request.content_type != "application/json":
        raise ApiError(415, "Send the body as JSON, with the header Content-Type: application/json.", code="not_json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, "The body did not come in time.", code="body_timeout") from None


def parse(body: bytes, kind: type[T]) -> T:
    """The body as a struct. Raises ApiError 400 with one sentence that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from None


def _invalid(complaint: str) -> ApiError:
    what, _, where = complaint.partition(" - at `$.")
    where = where.rstrip("`")
    if unknown := re.search(r"(?:unknown|required) field `([^`]+)`", what):
        where = f"{where}.{unknown[1]}" if where else unknown[1]
        return ApiError(400, f"{what}.", code="invalid_field", param=where)
    if where.partition(".")[0] in UNSUPPORTED:
        return ApiError(400, f"{where}: this value is not supported here.", code="unsupported_value", param=where)
    return ApiError(400, f"{where}: {what}." if where else f"{what}.", code="invalid_field", param=where or None)


def json_response(content: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, headers=headers, body=msgspec.json.encode(content), content_type="application/json"
    )


class EventStream:
    """Server-sent events on one response. Headers go out with the first event."""

    def __init__(self, request: web.Request) -> None:
        self._closed = False
        self.wrote = 0.0  # when the last event went out, by the loop's clock
        self._request = request
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # proxies pass each event on at once
            }
        )

    @property
    def begun(self) -> bool:
        return self._response.prepared

    async def _write(self, raw: bytes) -> None:
        self.wrote = asyncio.get_running_loop().time()
        if not self.begun:
            await self._response.prepare(self._request)
        await self._response.write(raw)

    async def send(self, data: msgspec.Struct | str, event: str = "") -> None:
        raw = data.encode() if isinstance(data, str) else msgspec.json.encode(data)
        name = f"event: {event}\n".encode() if event else b""
        await self._write(name + b"data: " + raw + b"\n\n")

    async def ping(self) -> None:
        """A comment, so that proxies do not take a waiting stream for a dead one."""
        if not self._closed:
            await self._write(b": waiting\n\n")

    async def close(self) -> web.StreamResponse:
        self._closed = True
        await self._response.write_eof()
        return self._response


@asynccontextmanager
async def pinging(events: EventStream) -> AsyncIterator[None]:
    """Sends a ping whenever nothing was written for a while."""

    async def ping() -> None:
        loop = asyncio.get_running_loop()
        events.wrote = loop.time()
        while True:
            await asyncio.sleep(events.wrote + PING_EVERY - loop.time())
            if loop.time() - events.wrote >= PING_EVERY:
                await events.ping()

    pings = asyncio.create_task(ping(), name="event stream pings")
    try:
        yield
    finally:
        pings.cancel()
        await asyncio.wait({pings})
