"""What shows that the rented machine is in use. Sensors look and report; they decide nothing about stopping it."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import structlog

from bot.money.evidence import Signal

log = structlog.get_logger()

PATIENCE = 8.0  # seconds that one look may take


class Sensor(Protocol):
    """One kind of evidence. It keeps what it needs of its last look, and is right from the first one on."""

    @property
    def name(self) -> str: ...

    async def look(self, at: datetime) -> Signal | None:
        """What it sees at `at`, the time of day now; None where there is nothing of its kind on this machine."""


async def look_all(sensors: Sequence[Sensor], at: datetime, *, patience: float = PATIENCE) -> tuple[Signal, ...]:
    """Everything that is seen, in the sensors' order. `patience`: seconds for each. Never raises."""
    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(_look(sensor, at, patience), name=f"look at {sensor.name}") for sensor in sensors]
    return tuple(signal for look in looks if (signal := look.result()))


async def _look(sensor: Sensor, at: datetime, patience: float) -> Signal | None:
    limit = asyncio.timeout(patience)
    try:
        async with limit:
            return await sensor.look(at)
    except Exception as error:  # boundary: one sensor must not blind the others
        if limit.expired():
            return Signal(sensor.name, None, f"{sensor.name}: no answer within {patience:g} s", at)
        log.debug("a sensor failed", sensor=sensor.name, exc_info=error)
        return Signal(sensor.name, None, f"{sensor.name}: {str(error) or type(error).__name__}", at)
