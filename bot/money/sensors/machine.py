"""How hard the whole machine works: its processors and its network, whoever uses them."""

import asyncio
import os
import re
import time
from datetime import datetime
from pathlib import Path

from bot.money.evidence import Signal
from bot.money.sensors.memory import LastUse
from bot.money.sensors.meter import Clock, Counters, Meter, Pause, Rate

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

CORES = 0.5  # busy from here on: the service's own ticking is a few per cent of one core
BYTES_PER_SECOND = 64 * 1024.0  # polling, health checks and an open browser tab stay far below

CPUACCT = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
CPU = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
CONTAINER = re.compile(r"docker|kubepods|containerd|crio|libpod|lxc")

# Their traffic never leaves the machine, or is counted on the interface that it leaves by.
INNER = re.compile(r"lo$|veth|docker|br-|virbr|cni|cali|flannel|ifb|dummy")


class NoCounter(OSError):
    """Nothing here tells how long the processors have worked."""


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _own_group(proc: Path, cgroup: Path) -> Path:
    """The cgroup v2 that holds the whole instance: the root that can be seen, unless that one is the host's."""
    for line in (_text(proc / "self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        path = rest.partition(":")[2].lstrip("/")
        if number == "0" and CONTAINER.search(path) and (cgroup / path / "cpu.stat").exists():
            return cgroup / path
    return cgroup


def _of_v2(group: Path) -> float | None:
    found = re.search(r"^usage_usec (\d+)$", _text(group / "cpu.stat") or "", re.MULTILINE)
    return int(found[1]) / 1e6 if found else None


def _of_v1(cgroup: Path) -> float | None:
    for name in CPUACCT:
        text = (_text(cgroup / name / "cpuacct.usage") or "").strip()
        if text.isdigit():
            return int(text) / 1e9
    return None


def _of_stat(proc: Path) -> float | None:
    found = re.search(r"^cpu +(\d+) (\d+) (\d+) \d+ \d+ (\d+) (\d+)", _text(proc / "stat") or "", re.MULTILINE)
    return sum(int(ticks) for ticks in found.groups()) / os.sysconf("SC_CLK_TCK") if found else None


def cpu_seconds(proc: Path = PROC, cgroup: Path = CGROUP) -> Counters:
    """Seconds of one core that the instance has computed, by where that was read. Raises NoCounter."""
    if (seconds := _of_v2(_own_group(proc, cgroup))) is not None:
        return {"cgroup v2": seconds}
    if (seconds := _of_v1(cgroup)) is not None:
        return {"cgroup v1": seconds}
    if (seconds := _of_stat(proc)) is not None:
        return {"stat": seconds}
    raise NoCounter(NoCounter.__doc__)


def _share(quota: str | None, period: str | None) -> float | None:
    """Cores from microseconds of computing a period; None where that is unlimited or not told."""
    told = [text.strip() for text in (quota, period) if text]
    if len(told) < 2 or not all(text.isdigit() and int(text) > 0 for text in told):
        return None
    return int(told[0]) / int(told[1])


def _quota(proc: Path, cgroup: Path) -> float | None:
    """Cores that the instance may use at most, where a cgroup says so."""
    maximum = (_text(_own_group(proc, cgroup) / "cpu.max") or "").split()
    if len(maximum) == 2:
        return _share(*maximum)
    shares = (_share(*(_text(cgroup / name / f"cpu.cfs_{what}_us") for what in ("quota", "period"))) for name in CPU)
    return next((share for share in shares if share), None)


def usable_cores(proc: Path = PROC, cgroup: Path = CGROUP) -> float:
    """How many cores' work the instance can do."""
    present = float(len(os.sched_getaffinity(0)))
    return min(present, _quota(proc, cgroup) or present)


def network_bytes(proc: Path = PROC) -> Counters:
    """Bytes that went in and out, by interface; without what stays on the machine. Raises OSError."""
    counters = {}
    for line in (proc / "net/dev").read_text(encoding="ascii", errors="replace").splitlines():
        name, colon, rest = line.partition(":")
        fields = rest.split()
        if colon and len(fields) >= 16 and not INNER.match(name.strip()):
            counters[name.strip()] = float(int(fields[0]) + int(fields[8]))
    return counters


def _verdict(rate: Rate, limit: float) -> bool | None:
    """A burst within a long gap drowns in its mean, so that only a high mean says something."""
    return True if rate.per_second >= limit else None if rate.gap else False


class Cpu:
    """Whether the processors compute more than an idle service does. `cores`: the threshold, of one core each."""

    name = "cpu"

    def __init__(self, *, cores: float = CORES, proc: Path = PROC, cgroup: Path = CGROUP,
                 clock: Clock = time.monotonic, pause: Pause = asyncio.sleep) -> None:  # fmt: skip
        self._meter = Meter(lambda: cpu_seconds(proc, cgroup), clock=clock, pause=pause)
        self._usable = usable_cores(proc, cgroup)
        self._threshold = min(cores, self._usable / 2)
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        rate = await self._meter.rate()
        busy = _verdict(rate, self._threshold)
        reason = f"CPU: {rate.per_second:.2f} of {self._usable:g} cores worked in the last {rate.seconds:.0f} s"
        return Signal(self.name, busy, reason, at, self._last_use.seen(at, at if busy else None))


class Network:
    """Whether data flows: a download looks idle to everything else. `bytes_per_second`: the threshold."""

    name = "network"

    def __init__(self, *, bytes_per_second: float = BYTES_PER_SECOND, proc: Path = PROC,
                 clock: Clock = time.monotonic, pause: Pause = asyncio.sleep) -> None:  # fmt: skip
        self._meter = Meter(lambda: network_bytes(proc), clock=clock, pause=pause)
        self._threshold = bytes_per_second
        self._last_use = LastUse()

    async def look(self, at: datetime) -> Signal:
        rate = await self._meter.rate()
        busy = _verdict(rate, self._threshold)
        reason = f"network: {rate.per_second / 1000:.1f} kB/s in the last {rate.seconds:.0f} s"
        return Signal(self.name, busy, reason, at, self._last_use.seen(at, at if busy else None))
