"""The HTTP server: routes, one place where errors become answers, and how the service is."""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from bot.config import Server
from bot.errors import ConfigError, PortTaken
from bot.web.auth import Keys
from bot.web.body import json_response
from bot.web.errors import ApiError, Stopping, response_to, translate
from inference.metrics import Glance
from storage.errors import StorageError

log = structlog.get_logger()

LOOK_UP = 1.0  # seconds in which a database that is not well may tell who asks how it is

PARTING = web.RequestKey("parting", web.Response)  # what a call that waits is answered where the service stops

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one part of the service is. The reason is for those who hold a key."""

    ok: bool
    state: str
    reason: str = ""
    figures: Glance | None = None


class Readiness(msgspec.Struct, frozen=True):
    ready: bool
    parts: dict[str, Part]


class Probe(Protocol):
    """Looks at one part of the service, now."""

    async def __call__(self) -> Part: ...


class Tally:
    """How many calls are being answered that ask for something, rather than how the service is."""

    answering = 0


class HttpServer:
    """What listens, and which calls are being served."""

    def __init__(self, tally: Tally) -> None:
        self.url = ""
        self._calls: set[asyncio.Task[object] | None] = set()
        self._tally = tally
        self._closing = asyncio.Event()
        self._cut = False  # who is still being served is told to come again
        self._idle = asyncio.Event()
        self._idle.set()

    async def listen(self, runner: web.AppRunner, server: Server) -> None:
        """Raises PortTaken."""
        self._site = web.TCPSite(runner, server.host, server.port)
        try:
            await self._site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken from None
            said = error.strerror or error
            raise ConfigError(f"server.host {server.host}, port {server.port} can't be listened on: {said}.") from None
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host if ':' not in host else f'[{host}]'}:{port}"

    def close(self) -> None:
        """Takes no further calls; those that are being served go on."""
        self._closing.set()

    async def drained(self) -> None:
        """Returns when it was closed and no call is being served any more. Cancelled, it cuts those that are.

        It listens meanwhile: who calls is told to come again, rather than met by a closed door.
        """
        try:
            await self._closing.wait()
            await self._idle.wait()
        finally:
            self._cut = True
            for call in self._calls:
                if call:
                    call.cancel()

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error is one JSON sentence; what nobody expected is logged and shows nothing of itself."""
        call = asyncio.current_task()
        self._calls.add(call)
        self._tally.answering += request.method == "POST"
        self._idle.clear()
        try:
            return response_to(Stopping()) if self._closing.is_set() else await handler(request)
        except asyncio.CancelledError:
            if not self._cut or _begun(request):  # the asker has gone, or has heard the beginning
                raise
            return request.get(PARTING) or response_to(Stopping())
        except Exception as error:  # boundary: the edge of the process
            told = translate(error)
            if told is None:
                log.exception("a call failed unexpectedly", method=request.method, path=request.path)
                told = ApiError(503, "The service has a fault; its log says more.", code="internal_error")
            if _begun(request) and request.transport:
                request.transport.abort()  # a second answer inside of the first would be taken for a part of it
            return response_to(told)
        finally:
            self._calls.discard(call)
            self._tally.answering -= request.method == "POST"
            if not self._calls:
                self._idle.set()


def _begun(request: web.Request) -> bool:
    """Whether a part of the answer is on its way."""
    return request.writer.output_size > 0


class Health:
    """`/healthz` says that the process lives, `/readyz` what it can do, `/metrics` how well."""

    def __init__(self, probes: Mapping[str, Probe], keys: Keys, metrics: CollectorRegistry) -> None:
        self._probes = probes
        self._keys = keys
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/healthz", self.alive), web.get("/readyz", self.ready), web.get("/metrics", self.metrics)]

    async def alive(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """For Prometheus. Any key will do."""
        await self._keys.require(request)
        return web.Response(body=generate_latest(self._metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def ready(self, request: web.Request) -> web.StreamResponse:
        parts = {name: await probe() for name, probe in self._probes.items()}
        ready = all(part.ok for part in parts.values())
        if not await self._is_known(request):
            parts = {name: Part(part.ok, part.state) for name, part in parts.items()}
        return json_response(Readiness(ready, parts), 200 if ready else 503)

    async def _is_known(self, request: web.Request) -> bool:
        """Whether the call has a valid key. Where the database does not say so in time, it has none."""
        looking = asyncio.create_task(self._keys.of(request), name="whose key this is")
        await asyncio.wait({looking}, timeout=LOOK_UP)
        if not looking.done():
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())
            return False
        try:
            return looking.result() is not None
        except StorageError:
            return False


@asynccontextmanager
async def serving(
    routes: Iterable[web.RouteDef], server: Server, tally: Tally | None = None
) -> AsyncIterator[HttpServer]:
    """An HTTP server on server.host and server.port."""
    http = HttpServer(tally or Tally())
    app = web.Application(middlewares=[http.answer], client_max_size=server.max_body)
    app.add_routes(list(routes))
    # handler_cancellation: an answer whose asker has gone is not computed to its end
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await http.listen(runner, server)
        yield http
    finally:
        await runner.cleanup()
