"""What the service calls: a request in, a stream of chunks out, whatever happens to the worker meanwhile."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import structlog

from inference import protocol as p
from inference.errors import EngineUnavailable, InferenceError, InvalidRequest, Overloaded, PromptTooLong, WorkerDied
from inference.metrics import Metrics, Stopwatch
from inference.supervisor import WORKER, Link, worker_process

log = structlog.get_logger()

ATTEMPTS = 3  # workers that a request may outlive: one that kills each of them is given up
STALL = 60.0  # seconds in which a busy model must make a step
DIED_LOADING = "its process died while loading it; is there enough memory for model.slots and model.context?"
QUEUE = 8  # requests that may wait, for each slot; half of them of one client
LONGEST_PAUSE = 30.0  # seconds between two starts of a worker


@dataclass(slots=True)
class EngineState:
    """`reason` says why it is not ready; `progress` how much of the model is loaded, 0 to 1."""

    status: Literal["loading", "ready", "failed"] = "loading"
    progress: float = 0.0
    reason: str = ""
    info: p.ModelInfo | None = None
    active: int = 0
    waiting: int = 0
    restarts: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that is not answered yet, with all that is needed to go on with it on another worker."""

    id: int
    request: p.Request
    chunks: "asyncio.Queue[p.Chunk | InferenceError]" = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    attempts: int = 0
    held: "InferenceError | None" = None  # an error that came behind chunks

    async def next(self) -> "p.Chunk | InferenceError":
        """What has come, the chunks that a slow reader let pile up as one."""
        item = self.held or await self.chunks.get()
        self.held = None
        while isinstance(item, p.Chunk) and not self.held and not self.chunks.empty():
            more = self.chunks.get_nowait()
            if isinstance(more, p.Chunk):
                item = item.followed_by(more)
            else:
                self.held = more
        return item

    def submit(self) -> p.Submit:
        self.attempts += 1
        return p.Submit(self.id, self.request, tuple(self.tokens))


class Engine:
    """A supervised worker. Use as `async with`; `generate` may be called as soon as the block begins."""

    def __init__(self, config: p.EngineConfig, worker: tuple[str, ...] = WORKER) -> None:
        """`worker`: the module to run, and what comes before the socket's path."""
        self._config = config
        self._worker = worker
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._link: Link | None = None
        self._changed = asyncio.Event()  # set, and replaced, whenever the state's status changes
        self._moved = (0, time.monotonic())  # the last step seen, and when
        self._seconds = 5.0  # that an answer takes, a moving average
        self.metrics = Metrics()
        self.state = EngineState()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._supervise(), name="engine supervisor")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:  # fmt: skip
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._fail_all("The service is stopping.")

    @property
    def worker_pid(self) -> int | None:
        return self._link.pid if self._link else None

    @property
    def unfinished(self) -> int:
        """Requests that are waiting or being answered."""
        return len(self._pending)

    async def changed(self) -> None:
        """Returns at the next change of the status."""
        await self._changed.wait()

    async def settled(self) -> EngineState:
        """The state once it is no longer loading."""
        while self.state.status == "loading":
            await self.changed()
        return self.state

    async def generate(self, request: p.Request, *, resume: tuple[int, ...] = (), patience: float | None = 30.0,
                       bounded: bool = True) -> AsyncGenerator[p.Chunk, None]:  # fmt: skip
        """The answer as it comes; the last chunk has `finish` and `usage`.

        `resume`: the tokens of an answer that was begun before; what comes are those after them, and their text.

        `patience`: seconds to wait for a model that is still loading; None waits as long as it takes. Closing
        the generator cancels the answer. `bounded`: refuse it where too many wait; a caller that limits itself
        need not. Raises InvalidRequest, PromptTooLong, EngineUnavailable, Overloaded, WorkerDied.
        """
        await self._ready(patience)
        if bounded:
            self._check_queue(request.client)
        watch, end = Stopwatch.start(self.metrics), "cancelled"
        pending = _Pending(next(self._ids), request, tokens=list(resume))
        self._pending[pending.id] = pending
        if self._link and self.state.status == "ready":
            self._link.send(pending.submit())
        finished = False
        try:
            while not finished:
                item = await pending.next()
                if isinstance(item, InferenceError):
                    finished, end = True, "failed"
                    raise item
                watch.chunk(item)
                finished, end = item.finish is not None, item.finish or end
                yield item
            self._seconds += 0.1 * (watch.last - watch.asked - self._seconds)
        finally:
            watch.end(end)
            self._pending.pop(pending.id, None)
            if not finished and self._link:
                self._link.send(p.Cancel(pending.id))

    def _check_queue(self, client: str) -> None:
        """Raises Overloaded where the queue is full, or half full of this client's requests."""
        slots = self.state.info.slots if self.state.info else 1
        waiting, own = len(self._pending) - slots, 0
        if waiting * 2 >= QUEUE * slots:
            own = sum(pending.request.client == client for pending in self._pending.values()) - slots
        crowd, full = own * 2 >= QUEUE * slots, waiting >= QUEUE * slots
        if full or crowd:
            self.metrics.refused.inc()
            raise Overloaded(1 + (own if crowd else waiting), waiting * self._seconds / slots, own=crowd)

    async def _ready(self, patience: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.state.status != "ready" and (patience is None or self.state.status == "loading"):
                    await self._changed.wait()
        if self.state.status == "failed":
            raise EngineUnavailable(f"The model is not available: {self.state.reason}")
        if self.state.status == "loading":
            raise EngineUnavailable(f"The model is still loading ({self.state.progress:.0%}); try again shortly.")

    async def _supervise(self) -> None:
        """Keeps a worker alive for ever. Pauses grow while none becomes ready."""
        pause = 0.0
        while True:
            try:
                async with worker_process(self._worker) as link:
                    await self._serve(link)
            except (EngineUnavailable, OSError) as error:
                self._set("failed", str(error))
            self._link = None
            self.state.restarts += 1
            self.metrics.restarts.inc()
            if self.state.status == "ready":
                log.error("the model's process died; starting it again", unfinished=len(self._pending))
                self._abandon_hopeless()
                self._set("loading")
                pause = 0.0
            else:
                self._set("failed", self.state.reason or DIED_LOADING)
                pause = min(LONGEST_PAUSE, 2 * pause + 1)
                log.error("the model can't be loaded", reason=self.state.reason, next_try_in=pause)
            await asyncio.sleep(pause)

    async def _serve(self, link: Link) -> None:
        """Loads the model on a worker and passes on what it says, until it dies."""
        self._link = link
        link.send(p.Load(self._config))
        watch = asyncio.create_task(self._watch(link), name="worker watchdog")
        try:
            async for report in link.reports():
                self._handle(report, link)
        finally:
            watch.cancel()

    def _handle(self, report: p.Report, link: Link) -> None:  # noqa: C901 - one case a kind of frame
        match report:
            case p.Step(chunks):
                self.metrics.batch.observe(len(chunks))
                for chunk in chunks:
                    self._pass_on(chunk)
            case p.Beat(steps, active, waiting):
                self.state.active, self.state.waiting = active, waiting
                self.metrics.active.set(active)
                self.metrics.waiting.set(waiting)
                if steps != self._moved[0] or not active + waiting:
                    self._moved = (steps, time.monotonic())
            case p.Refused(request_id, message, too_long):
                if pending := self._pending.get(request_id):
                    pending.chunks.put_nowait(PromptTooLong(message) if too_long else InvalidRequest(message))
            case p.Progress(fraction):
                self.state.progress = fraction
                self._moved = (0, time.monotonic())
            case p.Loaded(info):
                self.state.info, link.loaded = info, True
                self._moved = (0, time.monotonic())
                self._set("ready")
                for pending in self._pending.values():
                    link.send(pending.submit())
            case p.LoadRefused(message):
                self._set("failed", message)

    def _pass_on(self, chunk: p.Chunk) -> None:
        if pending := self._pending.get(chunk.id):
            pending.tokens.extend(chunk.tokens)
            pending.chunks.put_nowait(chunk)

    async def _watch(self, link: Link) -> None:
        """Cuts the line to a worker that has work and makes no step: it is killed then, and another starts."""
        self._moved = (0, time.monotonic())
        while True:
            await asyncio.sleep(1)
            busy = self.state.status == "ready" and bool(self._pending)
            if not busy:
                self._moved = (self._moved[0], time.monotonic())
            elif time.monotonic() - self._moved[1] > STALL:
                log.error("the model hangs; its process is replaced", seconds=STALL)
                link.hang_up()

    def _abandon_hopeless(self) -> None:
        for pending in list(self._pending.values()):
            if pending.attempts >= ATTEMPTS:
                pending.chunks.put_nowait(WorkerDied())

    def _set(self, status: Literal["loading", "ready", "failed"], reason: str = "") -> None:
        self.state.status, self.state.reason = status, reason
        if status == "failed":
            self._fail_all(f"The model is not available: {reason}")
        self._changed.set()
        self._changed = asyncio.Event()

    def _fail_all(self, reason: str) -> None:
        for pending in self._pending.values():
            pending.chunks.put_nowait(EngineUnavailable(reason))
