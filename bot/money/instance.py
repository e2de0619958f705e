"""The instance that costs money: what a cloud tells of it, and what can be asked of the cloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from bot.errors import DswbotError
from bot.money.situation import Snapshot
from storage.money import Quota
from storage.timeline import Lived, Price


class CallFailed(DswbotError):
    """The cloud did not do what it was asked; the message is for the operator, without secrets."""


@dataclass(frozen=True, slots=True)
class Culler:
    """The platform's own rule: stopped after so many minutes below both thresholds, without a word."""

    cpu_percent: int
    gpu_percent: int
    minutes: int


@dataclass(frozen=True, slots=True)
class View:
    """The instance at one moment. `status`: in DSW's words; None where the cloud can't tell.

    `up_since`: when it last began to run. `ran`: all the time that it has run, as far as the cloud counts it.
    `snapshot`: how far the newest saving of its image has come, and `snapshot_at` when that began, where told.
    """

    status: str | None
    spec: str = ""
    up_since: datetime | None = None
    ran: timedelta | None = None
    snapshot: Snapshot | None = None
    snapshot_at: datetime | None = None
    timer_due: datetime | None = None
    culler: Culler | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """The most that was measured in a span that ended at `until`: percent of the GPU and of the CPU, bytes a second."""

    until: datetime
    gpu: float | None
    cpu: float | None
    network: float | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the account says of itself. `sufficient`: whether it may run what is paid for by the hour."""

    quota: Quota | None
    sufficient: bool | None


class Cloud(Protocol):
    """Where the instance can be looked at, stopped and started. Every call may raise CallFailed."""

    @property
    def instance(self) -> str: ...

    async def view(self) -> View: ...

    async def lived(self, since: datetime) -> Sequence[Lived]:
        """Its life since then, for the ledger."""

    async def usage(self, since: datetime) -> Usage | None:
        """What the platform has measured of it since then (GetInstanceMetrics); None where it measures nothing."""

    async def price(self, spec: str) -> Price | None:
        """What it costs an hour now; None where the cloud has no price list."""

    async def stock(self, spec: str) -> bool | None:
        """Whether such a GPU could be had now."""

    async def subscription(self) -> Subscription | None: ...

    async def save(self, name: str) -> None:
        """Begins to save its image under that name; `view` tells how far it is."""

    async def stop(self) -> None:
        """Returns once the cloud has taken the order; `view` tells when it is done."""

    async def start(self) -> None: ...

    async def arm(self, after: timedelta) -> None:
        """The cloud itself stops the instance then, unless this is called again."""

    async def disarm(self) -> None: ...

    async def guard(self, culler: Culler | None) -> None:
        """Sets the platform's own idle rule, or lifts it."""
