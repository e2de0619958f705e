"""The Bot API over HTTP: a call is read, admitted or refused, carried out, and answered or broken."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec
from aiohttp import web

from tests.fakes.telegram_methods import BotAccount
from tests.fakes.telegram_rules import FloodGate
from tests.fakes.telegram_types import ApiError, Params, bad_request

MAX_UPLOAD = 50 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a call."""

    name: str
    retry_after: int = 0  # seconds
    hang: float = 0  # seconds
    status: int = 0
    body: bytes = b""

    SERVER_ERROR: ClassVar[Fault]  # 500; not carried out
    DROP_BEFORE: ClassVar[Fault]  # the connection closes; not carried out
    DROP_AFTER: ClassVar[Fault]  # carried out, then the connection closes without an answer

    @staticmethod
    def RETRY_AFTER(seconds: int) -> Fault:  # noqa: N802
        """429, not carried out; another call to that chat within these seconds makes the penalty longer."""
        return Fault("retry after", retry_after=seconds)

    @staticmethod
    def HANG(seconds: float) -> Fault:  # noqa: N802
        """Carried out at once, answered so much later."""
        return Fault("hang", hang=seconds)

    @staticmethod
    def IMPOSTOR(status: int, body: bytes) -> Fault:  # noqa: N802
        """Answered by a proxy that is none, or by whatever else is on the way; not carried out."""
        return Fault("impostor", status=status, body=body)


Fault.SERVER_ERROR = Fault("server error")
Fault.DROP_BEFORE = Fault("drop before")
Fault.DROP_AFTER = Fault("drop after")


@dataclass(slots=True)
class Call:
    """A request of the bot's.

    `outcome` says what became of it, whether or not the bot heard: "ok", "409 Conflict: …", "nothing" where
    the call was dropped or answered on the way; "pending" while it lasts.
    """

    method: str
    params: Params = field(default_factory=Params)
    time: float = field(default_factory=time.monotonic)
    outcome: str = "pending"
    fault: Fault | None = None


class BotApiServer:
    """Serves one bot's account on 127.0.0.1."""

    def __init__(self, token: str, account: BotAccount, gate: FloodGate) -> None:
        self.calls: list[Call] = []
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)  # by method in small letters
        self.address = ""
        self._token = token
        self._account = account
        self._gate = gate
        app = web.Application(client_max_size=MAX_UPLOAD)
        app.router.add_route("*", "/bot{token}/{method}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.02)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"

    async def stop(self) -> None:
        self._account.updates.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        call = Call(request.match_info["method"])
        self.calls.append(call)
        try:
            call.params = await _params(request)
            self._admit(call, request.match_info["token"])
            if call.fault == Fault.DROP_BEFORE:
                call.outcome = "nothing"
                return _hang_up(request)
            if call.fault and call.fault.status:
                call.outcome = "nothing"
                return web.Response(status=call.fault.status, body=call.fault.body, content_type="text/html")
            result = await self._perform(call, request)
            response, call.outcome = _json(200, {"ok": True, "result": result}), "ok"
        except ApiError as error:
            response, call.outcome = _refusal(error), str(error)
        if call.fault == Fault.DROP_AFTER:
            return _hang_up(request)
        await asyncio.sleep(call.fault.hang if call.fault else 0)
        return response

    def _admit(self, call: Call, token: str) -> None:
        method, violations = call.method.lower(), self._account.violations
        if token != self._token:
            raise ApiError(401, "Unauthorized")
        if method != "getupdates" and method not in self._account.methods:
            violations.append(f"no such method: {call.method}")
            raise ApiError(404, "Not Found: method not found")
        chat_id = call.params.get("chat_id", "")
        place = chat_id or method
        if seconds := self._gate.still_punished(place):
            violations.append(f"{call.method} during a 429 penalty of {place}")
            raise _too_many_requests(seconds)
        seconds = self._gate.overflow(chat_id) if chat_id else 0
        if not seconds and self.faults[method]:
            call.fault = self.faults[method].popleft()
            seconds = call.fault.retry_after
        if seconds:
            self._gate.punish(place, seconds)
            raise _too_many_requests(seconds)

    async def _perform(self, call: Call, request: web.Request) -> object:
        if call.fault == Fault.SERVER_ERROR:
            raise ApiError(500, "Internal Server Error")
        if call.method.lower() == "getupdates":
            return await self._account.updates.poll(call.params, lambda: request.transport is not None)
        return self._account.methods[call.method.lower()](call.params)


async def _params(request: web.Request) -> Params:
    """From the address and from the body: a form, multipart or JSON."""
    params = Params(request.query.items())
    if request.content_type == "application/json":
        try:
            given = msgspec.json.decode(await request.read(), type=dict[str, msgspec.Raw])
            params.update((name, _text(value)) for name, value in given.items() if value != b"null")
        except msgspec.MsgspecError as error:
            raise bad_request("can't parse JSON object") from error
    else:
        try:
            form = await request.post()
        except web.HTTPRequestEntityTooLarge as error:
            raise ApiError(413, "Request Entity Too Large") from error
        params.update((name, value) for name, value in form.items() if isinstance(value, str))
        uploads = ((name, value) for name, value in form.items() if isinstance(value, web.FileField))
        params.files = {name: value.file.read() for name, value in uploads}
    return params


def _text(value: msgspec.Raw) -> str:
    raw = bytes(value)
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode()


def _hang_up(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.close()
    return web.Response()


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


def _refusal(error: ApiError) -> web.Response:
    parameters = {"parameters": {"retry_after": error.retry_after}} if error.retry_after else {}
    body = {"ok": False, "error_code": error.code, "description": error.description, **parameters}
    return _json(error.code, body)


def _too_many_requests(seconds: int) -> ApiError:
    return ApiError(429, f"Too Many Requests: retry after {seconds}", seconds)
