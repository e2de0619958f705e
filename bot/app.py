"""The composition root: the one place that constructs things, starts them in order and stops them in reverse."""

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from zoneinfo import ZoneInfo

import structlog
from aiohttp import web

from bot.clock import now
from bot.config import Settings
from bot.conversation import Persona, Turns
from bot.delivery import Deliveries
from bot.door import Door
from bot.errors import AlreadyRunning, ConfigError
from bot.housekeeping import Housekeeping
from bot.lifecycle import SENDING, TURNS, Loop, Stage, run_until, unless_stopped
from bot.money import outside
from bot.money.accounts import Terms
from bot.money.billing import Billing
from bot.money.bss import Bss
from bot.money.links import LinkOrders, order_key
from bot.money.operator import Operator
from bot.money.watch import Subject, Watch, Work
from bot.telegram.adapter import TelegramAdapter
from bot.watching import Announcer, Busy, cost_answers, environment, place, rules, sensors, up_since
from bot.web.auth import Keys
from bot.web.callbacks import CHANNEL, CallbackChannel, opened_callbacks
from bot.web.events import ClientsMissing, missing_clients
from bot.web.links import OrderPages
from bot.web.openai import OpenAi
from bot.web.server import Health, Part, Probe, Tally, serving
from bot.web.webhooks import Webhooks
from inference import weights
from inference.engine import Engine
from inference.errors import LoadFailed
from inference.protocol import EngineConfig, ModelInfo
from storage import inbox, migrations, outbox
from storage.database import Database
from storage.errors import StorageError

log = structlog.get_logger()

WORKER = ("bot", "worker", "--socket")  # a worker logs as the service does


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
def _sole_user(settings: Settings) -> Iterator[str]:
    """Holds the data directory's lock, so that two services never answer from one database file.

    Gives the gateway's name, which is kept in the lock: the same after a restart, and no other gateway's.
    """
    try:
        descriptor = os.open(settings.data / "serve.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data} can't be written to: {error.strerror}.") from None
    try:
        yield _locked(descriptor, settings)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, settings: Settings) -> str:
    """The name in the lock's file, which this process alone holds from now on."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.pread(descriptor, 64, 0):
            os.pwrite(descriptor, secrets.token_hex(8).encode(), 0)
        return os.pread(descriptor, 64, 0).decode()
    except BlockingIOError:
        raise AlreadyRunning from None
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data} can't be locked: {error.strerror}. Use a local disk.") from None


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """The database at the schema of this version."""
    ensure_data_dir(settings)
    async with Database(settings.database_url) as db:
        try:
            await migrations.upgrade(db)
        except OSError as error:  # of the lock beside SQLite's file
            raise ConfigError(f"data_dir {settings.data} can't be written to: {error.strerror}.") from None
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
    where = place(settings, environment())
    ruled = rules(settings, where)
    file = model_file(settings)
    ensure_data_dir(settings)
    async with AsyncExitStack() as stack:
        owner = stack.enter_context(_sole_user(settings))
        opening = stack.enter_async_context(opened_database(settings))
        db = await unless_stopped(stop, opening, settings.server.shutdown_timeout)
        if db is None:
            return
        await db.examine()
        engine = await stack.enter_async_context(Engine(engine_config(settings, file), WORKER))
        manner = persona(settings, demo=file.demo)
        door, tally = Door(), Tally()
        deliveries = Deliveries(db, owner=owner)
        turns = Turns(db, engine, manner, owner=owner, stored=deliveries.wake, door=door)
        turns.channels["webhook"] = CallbackChannel()
        callbacks = opened_callbacks(db, settings.webhooks.allow_hosts)
        deliveries.senders[CHANNEL] = await stack.enter_async_context(callbacks)
        keys = Keys(db)
        intake: dict[str, Loop] = {}
        probes: dict[str, Probe] = {"database": _database_probe(db), "model": _model_probe(engine)}
        terms = Terms.of(settings.budget, settings.idle.timezone)
        operator = Operator(db, where.instance, ruled, ZoneInfo(settings.idle.timezone), cost_answers(db, terms))
        adapter = None
        if telegram and settings.telegram.token:
            adapter = TelegramAdapter(settings.telegram, db, turns, deliveries, demo=file.demo, operator=operator)
            await stack.enter_async_context(adapter)
            intake["telegram"] = adapter.run
            probes["telegram"] = _telegram_probe(adapter)
        announcer = await _announcer(settings, db, deliveries, operator, adapter)
        api = OpenAi(engine, db, keys, manner, [file.name], door=door)
        watched = await sensors(
            settings, where, db, Busy(lambda: engine.unfinished, lambda: tally.answering), environment()
        )
        subject = Subject(where.instance, where.cloud, where.local, watched, up_since() if where.local else None)
        work = _work(db, engine, deliveries, turns)
        watch = Watch(db, subject, work, owner=owner, rules=ruled, terms=terms, door=door, announce=announcer)
        operator.stored = watch.hurry
        pages = _order_pages(settings, db, where.instance, announcer.key, watch.hurry)
        routes = [
            *Health(probes, keys, engine.metrics.registry).routes(),
            *api.routes(),
            *Webhooks(db, turns, keys).routes(),
            *pages,
        ]
        http = await stack.enter_async_context(serving(routes, settings.server, tally))
        intake["idle watch"] = watch.run
        if settings.dsw.billing:
            intake["billing"] = Billing(db, where.instance, Bss()).run
        keeping = Housekeeping(db, keep=settings.database.keep, snapshots=settings.data / "kv")
        intake["housekeeping"] = keeping.run
        intake["first load"] = partial(_announce, engine, file, http.url, adapter, on_ready)
        stages = [
            Stage(intake, http.close),
            Stage({"turns": turns.run}, turns.close, TURNS),
            Stage({"calls": http.drained}, share=TURNS),
            Stage({"deliveries": deliveries.run}, deliveries.close, SENDING),
        ]
        await run_until(stop, stages, settings.server.shutdown_timeout)
    log.info("stopped")


def _work(db: Database, engine: Engine, deliveries: Deliveries, turns: Turns) -> Work:
    async def waiting() -> int:
        async with db.read() as session:
            return await inbox.count_waiting(session)

    async def flush() -> None:
        while await _unsent(db):
            deliveries.wake()
            await asyncio.sleep(0.2)

    def wake() -> None:
        deliveries.wake()
        turns.wake()

    return Work(lambda: engine.unfinished, waiting, lambda: engine.state.status == "ready", flush, wake)


async def _unsent(db: Database) -> bool:
    async with db.read() as session:
        return await outbox.due(session, now())


async def _announcer(settings: Settings, db: Database, deliveries: Deliveries, operator: Operator,
                     adapter: TelegramAdapter | None) -> Announcer:  # fmt: skip
    """Raises ConfigError where somebody could not be told."""
    alerts = settings.alerts
    async with db.read() as session:
        if missing := await missing_clients(session, alerts.webhook_clients):
            raise ClientsMissing(missing)
    apprise = await outside.opened_apprise(alerts.urls) if alerts.urls else None
    if apprise:
        deliveries.senders[outside.CHANNEL] = apprise
    key = order_key(settings.data / "order.key") if settings.server.public_url else None
    return Announcer(settings, operator, adapter, apprise, key)


def _order_pages(settings: Settings, db: Database, instance: str, key: bytes | None,
                 placed: Callable[[], None]) -> list[web.RouteDef]:  # fmt: skip
    """Pages that links in notices lead to, where others can reach them."""
    if key is None:
        return []
    return OrderPages(LinkOrders(db, instance, key, ZoneInfo(settings.idle.timezone), placed)).routes()


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
