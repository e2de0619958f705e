"""Whether the GPUs compute, as the driver tells it.

Never by process: a container is shown none, or the host's. Memory says nothing either: the service's own model fills
it all day.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from bot.money.evidence import Signal
from bot.money.sensors import Sensor
from bot.money.sensors.aside import Aside
from bot.money.sensors.gpu_use import GpuUse, Reading, Sample, Use
from bot.money.sensors.memory import LastUse
from bot.money.sensors.meter import GAP, Clock

EVERY = 5.0  # seconds between readings, also between looks: the driver keeps its samples for about 15
DEV = Path("/dev")

T = TypeVar("T")


def gpu_sensor(nvml: Any = None, *, dev: Path = DEV) -> Sensor | None:
    """The GPUs of this machine; None where it has none. Asks the driver, which may take seconds.

    `nvml`: what to use in place of the module pynvml.
    """
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
        return Gpus(nvml) if nvml.nvmlDeviceGetCount() else None
    except nvml.NVMLError as error:
        no_driver = error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        present = any(dev.glob("nvidia[0-9]*"))
        return None if no_driver and not present else Gpus(nvml)


class Gpus:
    """All GPUs; the busiest speaks. `every`: seconds between readings."""

    name = "gpu"

    def __init__(self, nvml: Any, *, every: float = EVERY, clock: Clock = time.monotonic) -> None:
        self._nvml = nvml
        self._every = every
        self._clock = clock
        self._aside = Aside("gpu")
        self._handles: list[Any] = []
        self._gpus: list[GpuUse] = []
        self._last_use = LastUse()
        self._reading: asyncio.Task[None] | None = None

    async def look(self, at: datetime) -> Signal:
        """Raises NVMLError where the driver can't be reached."""
        if self._reading:
            self._reading.cancel()
        uses = await self._aside.run(self._uses)
        self._reading = asyncio.create_task(self._keep_reading(), name="gpu samples")
        busy, reason = _verdict(uses)
        return Signal(self.name, busy, reason, at, self._last_use.seen(at, at if busy else None))

    async def _keep_reading(self) -> None:
        """Until nobody seems to ask any more."""
        for _ in range(int(GAP / self._every)):
            await asyncio.sleep(self._every)
            with contextlib.suppress(self._nvml.NVMLError):  # the next look tells of it
                await self._aside.run(self._read)

    def _uses(self) -> list[Use]:
        self._read()
        return [gpu.take() for gpu in self._gpus]

    def _read(self) -> None:
        if not self._handles:
            self._open()
        for gpu, handle in zip(self._gpus, self._handles, strict=True):
            gpu.add(self._reading_of(handle))

    def _open(self) -> None:
        nvml = self._nvml
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if len(handles) != len(self._gpus):
            self._gpus = [GpuUse(index) for index in range(len(handles))]
        self._handles = handles

    def _reading_of(self, handle: Any) -> Reading:
        nvml = self._nvml
        troubles: list[str] = []

        def ask(question: Callable[[], T]) -> T | None:
            try:
                return question()
            except nvml.NVMLError as error:
                troubles.append(str(error))
                if error.value in (nvml.NVML_ERROR_UNINITIALIZED, nvml.NVML_ERROR_GPU_IS_LOST):
                    self._handles = []  # begins anew with the next reading
                return None

        return Reading(
            self._clock(),
            samples=ask(lambda: _samples(nvml, handle)),
            percent=ask(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            joules=ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            watts=ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            limit=ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            trouble=troubles[0] if troubles else "",
        )


def _samples(nvml: Any, handle: Any) -> tuple[Sample, ...]:
    """All that the driver has. Which are new is for the reader to say: the driver's clock may be set back."""
    _, samples = nvml.nvmlDeviceGetSamples(handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, 0)
    told = (Sample(int(sample.timeStamp), int(sample.sampleValue.uiVal)) for sample in samples)
    return tuple(sample for sample in told if sample.stamp and 0 <= sample.percent <= 100)


def _verdict(uses: list[Use]) -> tuple[bool | None, str]:
    """Busy if one GPU is; unknown if none is but one can't tell."""
    for busy in (True, None, False):
        if among := [use for use in uses if use.busy is busy]:
            return busy, max(among, key=lambda use: use.percent).reason
    return None, "the driver shows no GPU any more"
