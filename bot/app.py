"""The composition root: the one place that constructs things, starts them in order and stops them in reverse."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from bot.config import Settings
from bot.conversation import Persona, Turns
from bot.delivery import Deliveries
from bot.errors import AlreadyRunning, ConfigError
from bot.money.policy import Rates
from bot.money.reminders import IdleWatch
from bot.telegram.adapter import TelegramAdapter
from bot.web.auth import Keys
from bot.web.openai import OpenAi
from bot.web.server import Health, Part, Probe, serving
from bot.web.webhooks import Webhooks
from inference import weights
from inference.engine import Engine
from inference.errors import LoadFailed
from inference.protocol import EngineConfig, ModelInfo
from storage import inbox, migrations
from storage.database import Database
from storage.errors import StorageError

log = structlog.get_logger()

WORKER = ("bot", "worker", "--socket")  # a worker logs as the service does

Loop = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Running:
    """What the operator is told once the service answers."""

    url: str
    model: ModelInfo
    demo: bool
    telegram: str  # the bot's name; empty without one


def ensure_data_dir(settings: Settings) -> None:
    """Creates the data directory, private to its owner."""
    try:
        weights.make_private(settings.data)
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data} can't be created: {error.strerror}.") from None


@contextlib.contextmanager
def _sole_user(settings: Settings) -> Iterator[None]:
    """Holds the data directory's lock, so that two services never answer from one database file."""
    try:
        descriptor = os.open(settings.data / "serve.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data} can't be written to: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyRunning from None
    finally:
        os.close(descriptor)


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """The database at the schema of this version."""
    ensure_data_dir(settings)
    async with Database(settings.database_url) as db:
        await migrations.upgrade(db)
        yield db


def model_file(settings: Settings) -> weights.ModelFile:
    return weights.resolve(settings.model.name, settings.model.path, settings.models_dir)


def engine_config(settings: Settings, file: weights.ModelFile) -> EngineConfig:
    model = settings.model
    return EngineConfig(
        model=file.name,
        path=str(file.path),
        cache_dir=str(settings.models_dir),
        kv_dir=str(settings.data / "kv"),
        context=model.context,
        slots=model.slots,
        gpu_layers=-1 if model.gpu_layers is None else model.gpu_layers,
        kv_type=model.kv_type,
        threads=model.threads or 0,
    )


def persona(settings: Settings, *, demo: bool) -> Persona:
    """The demo model is too small to know when to end."""
    thinking = {"auto": None, "on": True, "off": False}[settings.model.thinking]
    return Persona(settings.model.system_prompt, thinking, 256 if demo else None)


async def serve(settings: Settings, on_ready: Callable[[Running], None], stop: asyncio.Event, *,
                telegram: bool = True) -> None:  # fmt: skip
    """Runs the service until `stop` is set. Raises what an operator must act on."""
    file = model_file(settings)
    ensure_data_dir(settings)
    async with AsyncExitStack() as stack:
        stack.enter_context(_sole_user(settings))
        db = await stack.enter_async_context(opened_database(settings))
        engine = await stack.enter_async_context(Engine(engine_config(settings, file), WORKER))
        manner = persona(settings, demo=file.demo)
        owner = f"{socket.gethostname()}:{os.getpid()}"
        turns = Turns(db, engine, manner, owner=owner)
        deliveries = Deliveries(db)
        keys = Keys(db)
        vital: dict[str, Loop] = {"turns": turns.run, "deliveries": deliveries.run}
        probes: dict[str, Probe] = {"database": _database_probe(db), "model": _model_probe(engine)}
        adapter = None
        if telegram and settings.telegram.token:
            adapter = TelegramAdapter(settings.telegram, db, turns, deliveries, demo=file.demo)
            await stack.enter_async_context(adapter)
            vital["telegram"] = adapter.run
            probes["telegram"] = _telegram_probe(adapter)
        await _take_over(db)
        api = OpenAi(engine, db, keys, manner, [file.name])
        routes = [
            *Health(probes, keys, engine.metrics.registry).routes(),
            *api.routes(),
            *Webhooks(db, turns, keys).routes(),
        ]
        url = await stack.enter_async_context(serving(routes, settings.server))
        vital["idle watch"] = _idle_watch(settings, db, engine, adapter, deliveries).run
        vital["first load"] = partial(_announce, engine, file, url, adapter, on_ready)
        await _run_until(stop, vital)
    log.info("stopped")


async def _take_over(db: Database) -> None:
    """A lone gateway's restart goes on at once with what the last process was answering."""
    if db.dialect == "sqlite":
        async with db.write() as session:
            await inbox.release_all(session)


def _idle_watch(settings: Settings, db: Database, engine: Engine, adapter: TelegramAdapter | None,
                deliveries: Deliveries) -> IdleWatch:  # fmt: skip
    budget = settings.budget
    return IdleWatch(
        db, engine,
        after=settings.idle.after,
        rates=Rates(budget.yuan_per_hour, budget.compute_hours_per_hour),
        language=settings.telegram.language,
        announce=adapter.announce if adapter else lambda _text: [],
        wake=deliveries.wake,
    )  # fmt: skip


async def _announce(engine: Engine, file: weights.ModelFile, url: str, adapter: TelegramAdapter | None,
                    on_ready: Callable[[Running], None]) -> None:  # fmt: skip
    """Waits for the first load, which must succeed: a service without its model is a configuration mistake."""
    state = await engine.settled()
    if state.status == "failed" or state.info is None:
        raise LoadFailed(state.reason)
    on_ready(Running(url, state.info, file.demo, adapter.username if adapter else ""))
    await asyncio.Event().wait()


def _database_probe(db: Database) -> Probe:
    async def probe() -> Part:
        try:
            await db.ping()
        except StorageError as error:
            return Part(ok=False, state="unreachable", reason=str(error))
        return Part(ok=True, state=db.dialect)

    return probe


def _model_probe(engine: Engine) -> Probe:
    async def probe() -> Part:
        state = engine.state
        glance = engine.metrics.glance(state.active, state.waiting)
        return Part(ok=state.status == "ready", state=state.status, reason=state.reason, figures=glance)

    return probe


def _telegram_probe(adapter: TelegramAdapter) -> Probe:
    async def probe() -> Part:
        return Part(ok=adapter.state.ok, state=adapter.state.state, reason=adapter.state.reason)

    return probe


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


async def _run_until(stop: asyncio.Event, vital: dict[str, Loop]) -> None:
    """Runs the vital loops. The first that fails ends the service with its error."""
    tasks = [asyncio.create_task(loop(), name=name) for name, loop in vital.items()]
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
    finally:
        for task in [*tasks, stopping]:
            task.cancel()
        await asyncio.wait([*tasks, stopping])
