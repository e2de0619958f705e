"""The configuration: frozen structs, read once from dswbot.toml and the environment, which wins.

`DSWBOT_SECTION__KEY` overrides `[section] key`; `DSWBOT_DATA_DIR` the one key without a section. Whatever is
unknown or malformed is refused by name. Only this module reads the environment.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints
from zoneinfo import ZoneInfo

import msgspec

from bot.errors import ConfigError

PREFIX = "DSWBOT_"
NOT_SETTINGS = (PREFIX + "CONFIG", PREFIX + "API_KEY", PREFIX + "TEST_")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LEAST_KEPT = 4 * UNITS["d"]


class Seconds(float):
    """A duration, written `90s`, `15m`, `2h` or `1d`."""

    @classmethod
    def parse(cls, text: object) -> "Seconds":
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd])\s*", str(text))
        if not match:
            raise ValueError(f"durations are written 90s, 15m or 2h, not {text!r}")
        return cls(float(match[1]) * UNITS[match[2]])


class Size(int):
    """Bytes, written `1MiB`, `512KiB` or as a plain number."""

    @classmethod
    def parse(cls, text: object) -> "Size":
        match = re.fullmatch(r"\s*([0-9]+)\s*(|B|KiB|MiB|GiB)\s*", str(text))
        if not match:
            raise ValueError(f"sizes are written 512KiB or 1MiB, not {text!r}")
        return cls(int(match[1]) * 1024 ** ["", "KiB", "MiB", "GiB"].index(match[2].replace("B", "", match[2] == "B")))


class Secret(str):
    """A string that never shows itself in a log or a trace."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the configuration file."""


class Server(Section, frozen=True):
    host: str = "127.0.0.1"
    port: int = 8080
    public_url: str = ""
    max_body: Size = Size(1024 * 1024)
    shutdown_timeout: Seconds = Seconds(10)


class DatabaseSection(Section, frozen=True):
    url: Secret = Secret("")
    keep: Seconds | None = None  # for ever


class Model(Section, frozen=True):
    name: str = "auto"
    path: str = ""
    context: int | None = None
    slots: int | None = None
    gpu_layers: int | None = None
    kv_type: Literal["f16", "q8_0"] | None = None
    threads: int | None = None
    thinking: Literal["auto", "on", "off"] = "auto"
    system_prompt: str = ""
    lora: str = ""


class Telegram(Section, frozen=True):
    token: Secret = Secret("")
    base_url: str = "https://api.telegram.org/bot"
    base_file_url: str = "https://api.telegram.org/file/bot"
    proxy: Secret = Secret("")
    admins: tuple[int, ...] = ()
    allowed: tuple[int, ...] = ()
    mode: Literal["polling", "webhook"] = "polling"
    webhook_secret: Secret = Secret("")
    language: str = ""


class Webhooks(Section, frozen=True):
    allow_hosts: tuple[str, ...] = ()


class Dsw(Section, frozen=True):
    instance_id: str = ""
    region: str = ""
    endpoint: str = ""
    protocol: Literal["https", "http"] = "https"
    dry_run: bool = True
    allow_stop: bool = False
    allow_instances: tuple[str, ...] = ()  # that may be stopped; the one above where none are named
    save_image: bool = False
    billing: bool = False  # asks what was really charged, which needs a right of its own
    timer: Seconds = Seconds(2 * 60 * 60)  # after which DSW stops an instance whose service is dead; 0s: never


Watched = Literal["requests", "streams", "downloads", "gpu", "cpu", "network", "logins", "kernels"]


class Idle(Section, frozen=True):
    after: Seconds = Seconds(15 * 60)
    warn_for: Seconds = Seconds(10 * 60)
    action: Literal["remind", "stop"] = "remind"
    quiet_hours: str = ""
    in_quiet: Literal["later", "hold", "act"] = "later"
    timezone: str = "Asia/Shanghai"
    floor: Seconds = Seconds(5 * 60)
    min_uptime: Seconds = Seconds(5 * 60)
    wake_takes: Seconds = Seconds(5 * 60)
    watch: tuple[Watched, ...] = ()  # all, where something can be stopped; else what the service and the GPU show
    stop_command: tuple[str, ...] = ()


class Budget(Section, frozen=True):
    compute_hours: float = 250.0
    compute_hours_per_hour: float | None = None
    yuan_per_hour: float | None = None
    yuan_per_month: float | None = None
    disk_yuan_per_hour: float | None = None  # of a disk above the free size, in every state


class Alerts(Section, frozen=True):
    urls: tuple[Secret, ...] = ()
    webhook_clients: tuple[str, ...] = ()


class Nats(Section, frozen=True):
    url: str = ""
    credentials: str = ""
    subject_prefix: str = "dswbot"


class Settings(Section, frozen=True):
    """Everything that can be configured."""

    data_dir: str = "./data"
    server: Server = Server()
    database: DatabaseSection = DatabaseSection()
    model: Model = Model()
    telegram: Telegram = Telegram()
    webhooks: Webhooks = Webhooks()
    dsw: Dsw = Dsw()
    idle: Idle = Idle()
    budget: Budget = Budget()
    alerts: Alerts = Alerts()
    nats: Nats = Nats()

    @property
    def data(self) -> Path:
        return Path(self.data_dir).expanduser().absolute()

    @property
    def models_dir(self) -> Path:
        return self.data / "models"

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite+aiosqlite:///{self.data / 'dswbot.db'}"


def _from_text(kind: type[Any], value: object) -> object:
    """msgspec asks here about the types that it does not know."""
    if kind in (Seconds, Size):
        return kind.parse(value)
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError


def _is_list(hint: object) -> bool:
    return getattr(hint, "__origin__", None) is tuple


def _overrides(environ: Mapping[str, str]) -> dict[str, Any]:
    """The environment's settings as nested tables."""
    tables: dict[str, Any] = {}
    sections = get_type_hints(Settings)
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name.startswith(NOT_SETTINGS):
            continue
        section, _, key = name[len(PREFIX) :].lower().partition("__")
        if section == "data_dir" and not key:
            tables["data_dir"] = value
            continue
        hints = get_type_hints(sections[section]) if section in sections and section != "data_dir" else {}
        if key not in hints:
            raise ConfigError(f"{name} is set, but there is no such setting; the README lists them.")
        words = [part.strip() for part in value.split(",") if part.strip()]
        tables.setdefault(section, {})[key] = words if _is_list(hints[key]) else value
    return tables


def _file(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = environ.get(PREFIX + "CONFIG", "")
    path = Path(named or "dswbot.toml")
    try:
        return str(path), tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise ConfigError(f"DSWBOT_CONFIG names {path}, which does not exist.") from None
        return str(path), {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None


def _convert(data: dict[str, Any], *, origin: str, strict: bool) -> Settings:
    try:
        return msgspec.convert(data, Settings, strict=strict, dec_hook=_from_text)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"{origin}: {where.rstrip('`') or 'settings'}: {what}.") from None


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in force. Raises ConfigError with the name of whatever is wrong."""
    path, tables = _file(environ)
    _convert(tables, origin=path, strict=True)
    overrides = _overrides(environ)
    _convert(overrides, origin="environment", strict=False)
    for section, values in overrides.items():
        tables[section] = {**tables.get(section, {}), **values} if isinstance(values, dict) else values
    settings = _convert(tables, origin="settings", strict=False)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """What types alone can't say."""
    absent = {
        "model.lora": settings.model.lora, "telegram.mode = webhook": settings.telegram.mode == "webhook",
        "nats.url": settings.nats.url,
    }  # fmt: skip
    for name, wanted in absent.items():
        if wanted:
            raise ConfigError(f"{name} is not supported yet: take it out.")
    model, server = settings.model, settings.server
    positive = {
        "model.context": model.context, "model.slots": model.slots, "model.threads": model.threads,
        "idle.after": settings.idle.after, "server.max_body": server.max_body,
    }  # fmt: skip
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be more than 0.")
    disk = settings.budget.disk_yuan_per_hour
    if disk is not None and not 0 <= disk < math.inf:
        raise ConfigError("budget.disk_yuan_per_hour is what an hour of the disk costs: 0 or more.")
    if model.slots is not None and model.slots > 256:
        raise ConfigError("model.slots is at most 256.")
    if not 0 <= server.port <= 65535:
        raise ConfigError("server.port is between 0 and 65535.")
    if settings.database.keep is not None and settings.database.keep < LEAST_KEPT:
        raise ConfigError(
            "database.keep is at least 4d: callbacks are tried, and Idempotency-Keys heeded, for so long."
        )
    try:
        ZoneInfo(settings.idle.timezone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"idle.timezone: {settings.idle.timezone!r} is not a time zone.") from None
