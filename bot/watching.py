"""The part of the composition that watches over money: what is looked at, what may be done, and who is told."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog

from bot.config import Settings
from bot.errors import ConfigError
from bot.money import cost, outside, wording
from bot.money.accounts import Terms
from bot.money.dsw import Dsw
from bot.money.event import event
from bot.money.instance import Cloud
from bot.money.links import links
from bot.money.notice import Kind, Notice
from bot.money.operator import Cost, CostAnswer, Operator
from bot.money.outside import AppriseChannel
from bot.money.quiet import QuietHours
from bot.money.sensors import Sensor
from bot.money.sensors.gpu import gpu_sensor
from bot.money.sensors.jupyter import Kernels
from bot.money.sensors.jupyter_runtime import runtime_dirs
from bot.money.sensors.machine import Cpu, Network
from bot.money.sensors.people import Logins
from bot.money.sensors.platform import Platform
from bot.money.sensors.procfs import booted_at, process
from bot.money.sensors.service import Downloads, Requests, Streams, Workload
from bot.money.situation import Reminder, Rules, Trouble
from bot.money.stop_command import StopCommand
from bot.telegram.adapter import TelegramAdapter
from bot.web.events import Event, planned_event
from storage import inbox, ledger
from storage.database import Database
from storage.outbox import NewDelivery

log = structlog.get_logger()

HERE = ""  # the name of an instance that has none
BY_ITSELF = ("requests", "streams", "downloads", "gpu")  # what shows use on any machine
DOWNLOADING = timedelta(minutes=1)  # that a file of a model may go without growing
SOON = (Reminder.WARNED, Reminder.LAST_CALL)  # pointless once its deadline is over


@dataclass(frozen=True, slots=True)
class Place:
    """Which instance is meant, and whether this service runs on it. `cloud`: None where none can be asked."""

    instance: str
    local: bool
    cloud: Cloud | None


def place(settings: Settings, environ: Mapping[str, str]) -> Place:
    """The instance of the settings, else the DSW instance that this is, else this machine."""
    around = environ.get("DSW_INSTANCE_ID", "")
    instance = settings.dsw.instance_id or around
    if settings.idle.stop_command:
        name = instance or HERE
        return Place(name, True, StopCommand(settings.idle.stop_command, name))
    if not instance:
        return Place(HERE, True, None)
    region = environ.get("REGION") or environ.get("dsw_region", "")
    if not (settings.dsw.region or region or settings.dsw.endpoint):
        raise ConfigError("dsw.region is not set: it is a name like cn-hangzhou, shown in the console's address.")
    return Place(instance, instance == around, Dsw(settings.dsw, instance=instance, region=region))


def rules(settings: Settings, where: Place) -> Rules:
    """Raises ConfigError where what is wanted can't be."""
    idle, dsw = settings.idle, settings.dsw
    if idle.action == "stop" and where.cloud is None:
        raise ConfigError(
            "idle.action = stop needs something that can stop it: set dsw.instance_id, or idle.stop_command."
        )
    if dsw.allow_stop and dsw.allow_instances and where.instance not in dsw.allow_instances:
        raise ConfigError(f"dsw.allow_instances does not name {where.instance}: add it, or set dsw.allow_stop = false.")
    is_dsw = isinstance(where.cloud, Dsw)
    return Rules(
        after=timedelta(seconds=idle.after), warn_for=timedelta(seconds=idle.warn_for), action=idle.action,
        allow_stop=dsw.allow_stop and where.cloud is not None, dry_run=dsw.dry_run,
        save_image=dsw.save_image and is_dsw, quiet=QuietHours.parse(idle.quiet_hours, idle.timezone),
        in_quiet=idle.in_quiet, floor=timedelta(seconds=idle.floor), min_uptime=timedelta(seconds=idle.min_uptime),
        wake_takes=timedelta(seconds=idle.wake_takes),
        timer=timedelta(seconds=dsw.timer) if dsw.timer and is_dsw else None,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Busy:
    """What the service itself does. `streams`: answers under way to programs."""

    generating: Callable[[], int]
    streams: Callable[[], int]


async def sensors(settings: Settings, where: Place, db: Database, busy: Busy,
                  environ: Mapping[str, str]) -> Sequence[Sensor]:  # fmt: skip
    """What shows whether the instance is used: all of it where that decides about a stop, or runs on DSW."""
    kinds = settings.idle.watch or (() if where.cloud else BY_ITSELF)

    async def workload() -> Workload:
        async with db.read() as session:
            waiting, last = await inbox.count_waiting(session), await ledger.last_activity(session)
        return Workload(busy.generating(), waiting, last)

    found: list[Sensor] = [
        Requests(workload), Streams(busy.streams), Downloads(lambda: downloads(settings.models_dir))
    ]  # fmt: skip
    if where.local:
        gpu = await asyncio.to_thread(gpu_sensor)
        home = Path(environ.get("HOME", "/root"))
        found += [*([gpu] if gpu else []), Cpu(), Network(), Logins(), Kernels(runtime_dirs(environ, home))]
    elif where.cloud:
        found.append(Platform(where.cloud.usage))
    return [one for one in found if not kinds or one.name in kinds or one.name == Platform.name]


def downloads(folder: Path) -> list[str]:
    """Models whose files grow at the moment, whichever process fetches them."""
    newest = time.time() - DOWNLOADING.total_seconds()
    growing = (
        path for path in folder.rglob("*") if path.parent != folder or path.suffix != ".gguf"
    )  # not what is done
    return sorted({path.name for path in growing if _written(path) > newest})


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime if path.is_file() else 0.0
    except OSError:  # renamed meanwhile
        return 0.0


def up_since() -> datetime | None:
    """Since when this machine or container has been up."""
    first, booted = process(1), booted_at()
    return datetime.fromtimestamp(booted + first.started, UTC) if first and booted else None


@dataclass(frozen=True, slots=True)
class Announcer:
    """Tells the operators, by all the ways that are set up. `key`: signs links; None where none can be followed."""

    settings: Settings
    operator: Operator
    telegram: TelegramAdapter | None
    apprise: AppriseChannel | None
    key: bytes | None

    def __call__(self, notice: Notice) -> list[NewDelivery]:
        language, zone = self.settings.telegram.language, ZoneInfo(self.settings.idle.timezone)
        text = wording.text(notice, language, zone)
        log.warning("a notice to the operators", text=text)
        deliveries: list[NewDelivery] = []
        if self.telegram:
            deliveries += self.telegram.announce(text, self.operator.keyboard(notice, language))
        if self.apprise:
            offered = links(notice, self.key, self.settings.server.public_url, zone) if self.key else []
            payload = outside.Payload(
                wording.title(notice, language), wording.with_links(text, offered, language), _weight(notice),
                notice.deadline if notice.kind in SOON else None,
            )  # fmt: skip
            deliveries += self.apprise.planned(payload)
        told = event(notice)
        deliveries += [
            planned_event(name, Event(told.type, told.timestamp, told.data))
            for name in self.settings.alerts.webhook_clients
        ]
        return deliveries


def _weight(notice: Notice) -> outside.Weight:
    if notice.kind in tuple(Trouble):
        return "failure"
    return "success" if notice.kind in (Kind.STOPPED, Kind.WOKEN) else "warning"


def cost_answers(db: Database, terms: Terms) -> Cost:
    """What /cost answers, in a language, as of a time."""

    async def answer(language: str, at: datetime) -> CostAnswer:
        async with db.read() as session:
            report = await cost.cost_report(session, terms, at)
            today = await cost.cost_report(session, terms, at, first=at.astimezone(terms.zone).date())
        return CostAnswer(
            cost.three_lines(report, language), cost.three_lines(today, language).splitlines()[0],
            lambda: asyncio.to_thread(_drawn, report, language),
        )  # fmt: skip

    return answer


def _drawn(report: cost.CostReport, language: str) -> bytes:
    from bot.money import chart  # matplotlib takes a second to load

    return chart.draw(report, language, "png")


def environment() -> Mapping[str, str]:
    """What the instance's own environment tells of it: these are DSW's and Jupyter's names, not settings."""
    return os.environ
