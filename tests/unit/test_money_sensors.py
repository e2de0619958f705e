"""The sensors of use, on made-up machines."""

import asyncio
import errno
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.money.evidence import Signal
from bot.money.sensors import look_all
from bot.money.sensors.aside import Aside
from bot.money.sensors.gpu import Gpus, gpu_sensor
from bot.money.sensors.gpu_use import GpuUse, Reading, Sample
from bot.money.sensors.machine import Cpu, Network, cpu_seconds, network_bytes, usable_cores
from bot.money.sensors.memory import LastUse
from bot.money.sensors.meter import GAP, SETTLE, Meter
from bot.money.sensors.people import RECORD, Logins, utmp_users
from bot.money.sensors.procfs import booted_at, lines_of_this_process, process
from bot.money.sensors.service import Downloads, Requests, Streams, Workload

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


@dataclass
class Time:
    """A clock that moves only when told, or when somebody pauses; `then` happens after each pause."""

    seconds: float = 1000.0
    then: Callable[[float], None] = lambda _: None
    pauses: int = 0

    def __call__(self) -> float:
        return self.seconds

    async def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.seconds += seconds
        self.then(seconds)


# --- all of them


@dataclass
class Scripted:
    name: str
    act: Callable[[], object]

    async def look(self, at: datetime) -> Signal | None:
        answer = self.act()
        return await answer if asyncio.iscoroutine(answer) else answer


def _raise(error: Exception) -> None:
    raise error


async def test_one_sensor_that_fails_or_hangs_is_unknown_and_the_others_still_speak():
    fine = Signal("cpu", False, "idle", AT)
    sensors = [
        Scripted("gpu", lambda: _raise(RuntimeError("the driver fell over"))),
        Scripted("cpu", lambda: fine),
        Scripted("network", lambda: asyncio.sleep(60)),
        Scripted("kernels", lambda: None),
        Scripted("logins", lambda: _raise(TimeoutError())),
        Scripted("streams", lambda: _raise(PermissionError(errno.EACCES, "Permission denied", "/dev/pts"))),
    ]
    gpu, cpu, network, logins, streams = await look_all(sensors, AT, patience=0.05)
    assert gpu == Signal("gpu", None, "gpu: the driver fell over", AT)
    assert cpu is fine
    assert network == Signal("network", None, "network: no answer within 0.05 s", AT)
    assert logins == Signal("logins", None, "logins: TimeoutError", AT)
    assert streams.reason == "streams: [Errno 13] Permission denied: '/dev/pts'"


async def test_sensors_look_at_the_same_time():
    meet = asyncio.Barrier(2)
    sensors = [Scripted(name, meet.wait) for name in ("cpu", "gpu")]
    assert set(await look_all(sensors, AT, patience=5)) == {1}  # 0, the other, is no signal


async def test_a_cancelled_look_is_cancelled():
    task = asyncio.create_task(look_all([Scripted("cpu", lambda: asyncio.sleep(60))], AT))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_blocking_call_that_hangs_holds_up_only_its_own_kind():
    gate, aside = threading.Event(), Aside("test")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(aside.run(gate.wait), 0.05)
    second = asyncio.create_task(aside.run(lambda: "later"))
    await asyncio.sleep(0.05)
    assert not second.done()  # no second thread piles up behind the first
    gate.set()
    assert await asyncio.wait_for(second, 5) == "later"
    with pytest.raises(ZeroDivisionError):
        await aside.run(lambda: 1 / 0)


@given(st.lists(st.tuples(st.integers(-1000, 1000), st.none() | st.integers(-1000, 1000))))
def test_the_last_use_is_never_in_the_future(looks: list[tuple[int, int | None]]):
    last_use = LastUse()
    for now, used in looks:
        at = AT + timedelta(seconds=now)
        newest = last_use.seen(at, None if used is None else AT + timedelta(seconds=used))
        assert newest is None or newest <= at
        assert used is None or newest >= min(at, AT + timedelta(seconds=used))


# --- rates


def _meter(time: Time, counters: dict[str, float]) -> Meter:
    return Meter(lambda: counters, clock=time, pause=time.pause)


def grow(counters: dict[str, float], per_second: float) -> Callable[[float], None]:
    def then(seconds: float) -> None:
        for name in counters:
            counters[name] += per_second * seconds

    return then


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.floats(SETTLE, GAP), st.integers(1, 3))
async def test_the_rate_is_that_of_the_time_between_looks(begun: float, per_second: float, apart: float, count: int):
    counters = {f"eth{n}": begun for n in range(count)}
    time = Time(then=grow(counters, per_second))
    meter = _meter(time, counters)
    for _ in range(2):  # the first look is right already
        rate = await meter.rate()
        assert rate.per_second == pytest.approx(per_second * count, abs=1e-3, rel=1e-3)
        assert not rate.gap
        await time.pause(apart)


@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**12)), st.floats(-1e5, 1e5)), max_size=8
    )
)
async def test_whatever_the_counters_and_the_clock_do_a_rate_is_never_negative(looks: list[tuple[dict, float]]):
    counters: dict[str, float] = {}
    time = Time()
    meter = _meter(time, counters)
    for new, later in looks:
        counters.clear()
        counters.update(new)
        time.seconds += later
        rate = await meter.rate()
        assert rate.per_second >= 0
        assert rate.seconds >= SETTLE


async def test_counters_that_begin_anew_are_read_once_more():
    counters = {"eth0": 1e12}
    time = Time(then=grow(counters, 500.0))
    meter = _meter(time, counters)
    await meter.rate()
    counters["eth0"] = 0.0
    time.seconds += 20
    rate = await meter.rate()
    assert (rate.per_second, rate.seconds) == (500.0, SETTLE)


async def test_an_interface_that_comes_or_goes_is_left_out_of_that_look():
    counters = {"eth0": 0.0, "eth1": 1e9}
    time = Time(then=grow(counters, 10.0))
    meter = _meter(time, counters)
    await meter.rate()
    del counters["eth1"]
    counters["eth2"] = 5e9
    await time.pause(20)
    assert (await meter.rate()).per_second == 10.0


# --- processors and network


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@dataclass
class Machine:
    """A tree of /proc and /sys/fs/cgroup on which `cores` work and `bytes` flow, a second."""

    root: Path
    cores: float = 0.0
    bytes: float = 0.0
    time: Time = field(default_factory=Time)
    worked: float = 100.0
    flowed: float = 1e6

    def __post_init__(self) -> None:
        self.time.then = self.passed
        self.passed(0)

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def cgroup(self) -> Path:
        return self.root / "cgroup"

    def passed(self, seconds: float) -> None:
        self.worked += seconds * self.cores
        self.flowed += seconds * self.bytes
        usec = int(self.worked * 1e6)
        write(self.cgroup / "cpu.stat", f"usage_usec {usec}\nuser_usec {usec}\nsystem_usec 0\n")
        write(self.proc / "net/dev", net_dev(lo=9**12, eth0=int(self.flowed), docker0=7**12, veth1=5**12))

    def cpu(self) -> Cpu:
        return Cpu(proc=self.proc, cgroup=self.cgroup, clock=self.time, pause=self.time.pause)

    def network(self) -> Network:
        return Network(proc=self.proc, clock=self.time, pause=self.time.pause)


def net_dev(**received: int) -> str:
    head = "Inter-|   Receive  |  Transmit\n face |bytes packets errs|bytes\n"
    return head + "".join(f"{name:>6}: {count} 1 0 0 0 0 0 0 1000 1 0 0 0 0 0 0\n" for name, count in received.items())


async def test_the_service_ticking_is_no_use_and_a_computation_is(tmp_path: Path):
    machine = Machine(tmp_path, cores=0.04)
    sensor = machine.cpu()
    first = await sensor.look(AT)
    assert (first.busy, first.last_used) == (False, None)
    machine.cores = 0.9
    await machine.time.pause(20)
    second = await sensor.look(AT + timedelta(seconds=20))
    assert (second.busy, second.last_used) == (True, AT + timedelta(seconds=20))
    assert second.reason.startswith("CPU: 0.90 of ")
    assert second.reason.endswith("cores worked in the last 20 s")
    machine.cores = 0.0
    await machine.time.pause(20)
    third = await sensor.look(AT + timedelta(seconds=40))
    assert (third.busy, third.last_used) == (False, AT + timedelta(seconds=20))


async def test_a_computation_is_seen_at_the_first_look(tmp_path: Path):
    machine = Machine(tmp_path, cores=1.0)
    assert (await machine.cpu().look(AT)).busy
    assert machine.time.pauses == 1


async def test_a_burst_may_drown_in_a_long_gap_which_is_unknown_once(tmp_path: Path):
    machine = Machine(tmp_path)
    sensor = machine.cpu()
    await sensor.look(AT)
    await machine.time.pause(GAP + 1)
    assert (await sensor.look(AT)).busy is None
    await machine.time.pause(20)
    assert (await sensor.look(AT)).busy is False


async def test_a_small_share_of_a_core_is_judged_by_that_share(tmp_path: Path):
    machine = Machine(tmp_path, cores=0.15)
    write(machine.cgroup / "cpu.max", "20000 100000\n")
    seen = await machine.cpu().look(AT)
    assert seen.busy
    assert seen.reason == "CPU: 0.15 of 0.2 cores worked in the last 1 s"


async def test_without_any_counter_the_processors_are_unknown(tmp_path: Path):
    (signal,) = await look_all([Cpu(proc=tmp_path, cgroup=tmp_path)], AT)
    assert (signal.busy, signal.reason) == (None, "cpu: Nothing here tells how long the processors have worked.")


def test_processor_time_is_read_from_the_best_source(tmp_path: Path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    hz = os.sysconf("SC_CLK_TCK")
    write(
        proc / "stat", f"cpu  {3 * hz} {hz} {hz} 999 999 {hz} {hz} 5 6 7\ncpu0 1 1 1 1 1 1 1 0 0 0\nbtime 1700000000\n"
    )
    assert cpu_seconds(proc, cgroup) == {"stat": 7.0}
    write(cgroup / "cpu,cpuacct/cpuacct.usage", "12500000000\n")
    assert cpu_seconds(proc, cgroup) == {"cgroup v1": 12.5}
    write(cgroup / "cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
    assert cpu_seconds(proc, cgroup) == {"cgroup v2": 2.5}
    write(proc / "self/cgroup", "0::/system.slice/dswbot.service\n")
    write(cgroup / "system.slice/dswbot.service/cpu.stat", "usage_usec 1\n")
    assert cpu_seconds(proc, cgroup) == {"cgroup v2": 2.5}  # the whole machine, not the service alone
    write(proc / "self/cgroup", "4:memory:/x\n0::/kubepods/pod1/abc\n")
    write(cgroup / "kubepods/pod1/abc/cpu.stat", "usage_usec 1500000\n")
    assert cpu_seconds(proc, cgroup) == {"cgroup v2": 1.5}  # the whole container, not the host's others


def test_usable_cores_are_those_of_the_quota(tmp_path: Path):
    present = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path, tmp_path) == present
    write(tmp_path / "cpu/cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(tmp_path, tmp_path) == 0.5
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    assert usable_cores(tmp_path, tmp_path) == present
    write(tmp_path / "cpu.max", "25000 100000\n")
    assert usable_cores(tmp_path, tmp_path) == 0.25
    write(tmp_path / "cpu.max", "max 100000\n")
    assert usable_cores(tmp_path, tmp_path) == present


def test_only_traffic_that_leaves_the_machine_counts(tmp_path: Path):
    write(tmp_path / "net/dev", net_dev(lo=1, eth0=5, docker0=7, ifb0=2, wlan0=3))
    assert network_bytes(tmp_path) == {"eth0": 1005.0, "wlan0": 1003.0}


async def test_polling_is_no_use_and_a_download_is(tmp_path: Path):
    machine = Machine(tmp_path, bytes=900)
    sensor = machine.network()
    assert (await sensor.look(AT)).busy is False
    machine.bytes = 300_000
    await machine.time.pause(20)
    seen = await sensor.look(AT)
    assert (seen.busy, seen.reason) == (True, "network: 300.0 kB/s in the last 20 s")


async def test_a_machine_without_a_network_is_idle_and_one_that_hides_it_unknown(tmp_path: Path):
    write(tmp_path / "net/dev", net_dev(lo=5))
    time = Time()
    sensor = Network(proc=tmp_path, clock=time, pause=time.pause)
    assert (await sensor.look(AT)).busy is False
    (tmp_path / "net/dev").unlink()
    (signal,) = await look_all([sensor], AT)
    assert signal.busy is None


# --- GPUs


class NvmlError(Exception):
    def __init__(self, value: int, text: str) -> None:
        super().__init__(text)
        self.value = value


NOT_SUPPORTED = NvmlError(3, "Not Supported")
UNINITIALIZED = NvmlError(1, "Uninitialized")


@dataclass
class FakeGpu:
    """What a GPU answers; an error is raised. `samples`: (stamp in microseconds, percent)."""

    samples: list[tuple[int, int]] | NvmlError = field(default_factory=list)
    percent: int | NvmlError = 0
    joules: float | NvmlError = 0.0
    watts: float | NvmlError = 30.0
    limit: float | NvmlError = 150.0


def _told(value):
    if isinstance(value, NvmlError):
        raise value
    return value


class FakeNvml:
    """The functions of pynvml that are used. `fails`: what nvmlInit raises."""

    NVMLError = NvmlError
    NVML_GPU_UTILIZATION_SAMPLES = 1
    NVML_ERROR_UNINITIALIZED = 1
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_GPU_IS_LOST = 15

    def __init__(self, *gpus: FakeGpu, fails: NvmlError | None = None) -> None:
        self.gpus = list(gpus)
        self.fails = fails
        self.begun = 0
        self.read = 0  # how often a GPU's samples were

    def nvmlInit(self) -> None:  # noqa: N802
        _told(self.fails)
        self.begun += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        assert self.begun
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetSamples(self, gpu: FakeGpu, kind: int, since: int):  # noqa: N802
        assert kind == self.NVML_GPU_UTILIZATION_SAMPLES
        self.read += 1
        found = [SimpleNamespace(timeStamp=stamp, sampleValue=SimpleNamespace(uiVal=percent))
                 for stamp, percent in _told(gpu.samples) if stamp > since]  # fmt: skip
        if not found:
            raise NvmlError(6, "Not Found")
        return 1, found

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu):  # noqa: N802
        return SimpleNamespace(gpu=_told(gpu.percent), memory=0)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:  # noqa: N802
        return int(_told(gpu.joules) * 1000)

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:  # noqa: N802
        return int(_told(gpu.watts) * 1000)

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: FakeGpu) -> int:  # noqa: N802
        return int(_told(gpu.limit) * 1000)


def silent(**but: object) -> FakeGpu:
    """A GPU that tells nothing but this."""
    names = ("samples", "percent", "joules", "watts", "limit")
    return FakeGpu(**{**dict.fromkeys(names, NOT_SUPPORTED), **but})


def stamps(start: int, *percents: int) -> list[tuple[int, int]]:
    return [(start + 166_000 * n, percent) for n, percent in enumerate(percents)]


async def test_a_short_reply_between_two_looks_is_seen_though_the_gpu_rests_at_both():
    gpu = FakeGpu(samples=stamps(1, 0, 0, 0))
    sensor = Gpus(FakeNvml(gpu))
    first = await sensor.look(AT)
    assert (first.busy, first.last_used, first.reason) == (False, None, "GPU 0 worked 0 % just now")
    gpu.samples = [*gpu.samples, *stamps(5_000_000, 0, 91, 0)]
    second = await sensor.look(AT + timedelta(seconds=20))
    assert (second.busy, second.last_used) == (True, AT + timedelta(seconds=20))
    assert "worked up to 91 %" in second.reason
    third = await sensor.look(AT + timedelta(seconds=40))  # the same samples are still there
    assert (third.busy, third.last_used) == (False, AT + timedelta(seconds=20))


async def test_what_the_driver_forgets_between_two_looks_was_read_meanwhile():
    gpu = FakeGpu(samples=stamps(1, 0))
    nvml = FakeNvml(gpu)
    sensor = Gpus(nvml, every=0.02)
    await sensor.look(AT)
    gpu.samples = stamps(10_000_000, 80)
    before = nvml.read
    async with asyncio.timeout(10):
        while nvml.read < before + 2:
            await asyncio.sleep(0.01)
    gpu.samples = stamps(30_000_000, 0)
    assert (await sensor.look(AT)).busy


async def test_of_several_gpus_the_busiest_speaks_and_one_that_is_silent_makes_it_unknown():
    idle, busy = FakeGpu(samples=stamps(1, 0)), FakeGpu(samples=stamps(1, 40))
    seen = await Gpus(FakeNvml(idle, busy, silent())).look(AT)
    assert (seen.busy, seen.reason) == (True, "GPU 1 worked up to 40 % just now")
    seen = await Gpus(FakeNvml(idle, silent())).look(AT)
    assert (seen.busy, seen.reason) == (None, "GPU 1 does not tell how much it works: Not Supported")


async def test_a_driver_that_was_restarted_is_asked_anew():
    gpu = FakeGpu(samples=stamps(1, 0))
    nvml = FakeNvml(gpu)
    sensor = Gpus(nvml)
    await sensor.look(AT)
    gpu.samples = gpu.percent = gpu.joules = gpu.watts = gpu.limit = UNINITIALIZED
    assert (await sensor.look(AT)).busy is None
    nvml.gpus = [FakeGpu(samples=stamps(1, 0))]
    assert (await sensor.look(AT)).busy is False
    assert nvml.begun == 2


def test_a_machine_without_a_gpu_has_no_such_sensor(tmp_path: Path):
    none = FakeNvml(fails=NvmlError(12, "NVML Shared Library Not Found"))
    assert gpu_sensor(none, dev=tmp_path) is None
    assert gpu_sensor(FakeNvml(fails=NvmlError(9, "Driver Not Loaded")), dev=tmp_path) is None
    assert gpu_sensor(FakeNvml(), dev=tmp_path) is None
    assert isinstance(gpu_sensor(FakeNvml(FakeGpu()), dev=tmp_path), Gpus)


async def test_a_gpu_without_its_driver_is_unknown(tmp_path: Path):
    (tmp_path / "nvidia0").touch()
    sensor = gpu_sensor(FakeNvml(fails=NvmlError(12, "NVML Shared Library Not Found")), dev=tmp_path)
    assert sensor
    (signal,) = await look_all([sensor], AT)
    assert (signal.busy, signal.reason) == (None, "gpu: NVML Shared Library Not Found")


def judged(*readings: Reading) -> tuple[bool | None, str]:
    """What is said after the last of several readings, each its own look."""
    use = GpuUse(0)
    for reading in readings:
        use.add(reading)
        said = use.take()
    return said.busy, said.reason


def powered(at: float, watts: float, percent: int | None = 0) -> Reading:
    """A reading without samples and energy counter, as of a Pascal card in a virtual machine."""
    return Reading(at, percent=percent, watts=watts, limit=150.0)


def test_a_model_that_is_loaded_raises_the_power_for_good_which_is_no_use():
    loaded = [powered(20.0 * n, 55) for n in range(2, 70)]
    assert judged(powered(0, 20), powered(20, 20), loaded[0])[0] is True
    assert judged(powered(0, 20), powered(20, 20), *loaded)[0] is False


def test_the_energy_shows_what_the_utilisation_at_both_looks_does_not():
    quiet = [Reading(20.0 * n, percent=0, joules=600.0 * n, limit=150.0) for n in range(4)]
    busy, reason = judged(*quiet, Reading(80, percent=0, joules=1800 + 1000.0, limit=150.0))
    assert (busy, reason) == (True, "GPU 0 drew 20 W more than when idle in the last 20 s")
    assert judged(*quiet, Reading(80, percent=0, joules=1800 + 620.0, limit=150.0))[0] is False
    assert judged(*quiet, Reading(80, percent=0, joules=3.0, limit=150.0))[0] is False  # it began anew


def test_where_power_alone_is_told_it_decides_only_if_the_lowest_may_be_idle():
    assert judged(powered(0, 30, None)) == (False, "GPU 0 drew no more than 30 W when idle just now")
    assert judged(powered(0, 30, None), powered(20, 90, None))[0] is True
    assert judged(powered(0, 130, None))[0] is None  # at work since before the first look, perhaps
    assert judged(Reading(0, watts=30.0))[0] is None


def test_a_clock_that_is_set_back_hides_no_samples():
    def sampled(at: float, *samples: tuple[int, int]) -> Reading:
        return Reading(at, samples=tuple(Sample(*one) for one in samples))

    assert judged(sampled(0, (9_000_000, 0)), sampled(20, (1_000_000, 70), (1_200_000, 0)))[0] is True


def test_a_gpu_not_watched_for_long_is_unknown_once():
    looks = [Reading(0, percent=0), Reading(GAP + 1, percent=0), Reading(GAP + 21, percent=0)]
    assert judged(*looks[:2])[0] is None
    assert judged(*looks)[0] is False


@given(
    st.lists(
        st.builds(
            Reading,
            at=st.floats(0, 1e6),
            samples=st.none() | st.lists(st.builds(Sample, st.integers(1, 10**9), st.integers(0, 100))).map(tuple),
            percent=st.none() | st.integers(0, 100),
            joules=st.none() | st.floats(0, 1e9),
            watts=st.none() | st.floats(0, 1000),
            limit=st.none() | st.floats(0, 1000),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_gpu_that_works_now_is_never_called_idle(readings: list[Reading]):
    busy, reason = judged(*readings)
    assert reason.startswith("GPU 0 ")
    if (readings[-1].percent or 0) >= 5:
        assert busy is True
    silent_all_along = all(
        one.percent is None and not one.samples and one.watts is None and one.joules is None for one in readings
    )
    if silent_all_along:
        assert busy is None


# --- logins


HZ = os.sysconf("SC_CLK_TCK")


class Terminals:
    """A tree of /proc and /dev with terminals on it."""

    def __init__(self, root: Path) -> None:
        self.proc, self.dev = root / "proc", root / "dev"
        (self.dev / "pts").mkdir(parents=True)
        write(self.dev / "pts/ptmx", "")
        write(self.proc / "stat", "cpu 1 1 1 1 1 1 1\nbtime 1700000000\n")

    def open(self, number: int, *, typed: float, printed: float) -> None:
        """`typed`, `printed`: minutes before AT."""
        path = write(self.dev / f"pts/{number}", "")
        os.utime(path, (AT.timestamp() - 60 * typed, AT.timestamp() - 60 * printed))

    def run(self, pid: int | str, name: str, *, parent: int = 1, line: int | None = None, front: bool = False) -> None:
        tty = 0 if line is None else 136 << 8 | line & 0xFF | (line & 0xFFF00) << 12
        number = 99 if pid == "self" else pid
        fields = ["S", parent, number, number, tty, number if front else 1, *[0] * 13, 5 * HZ, 0, 0]
        write(self.proc / f"{pid}/stat", f"{number} ({name}) {' '.join(map(str, fields))}\n")

    def sensor(self, *utmp: Path) -> Logins:
        return Logins(proc=self.proc, dev=self.dev, utmp=utmp)


@pytest.fixture
def terminals(tmp_path: Path) -> Terminals:
    return Terminals(tmp_path)


async def test_an_ssh_session_is_use_while_it_was_used_within_the_last_hour(terminals: Terminals):
    terminals.open(0, typed=12, printed=40)
    terminals.run(10, "sshd-session")
    terminals.run(11, "bash (login) x", parent=10, line=0)
    seen = await terminals.sensor().look(AT)
    assert (seen.busy, seen.last_used) == (True, AT - timedelta(minutes=12))
    assert seen.reason.startswith("ssh session idle 12 min (")
    assert seen.reason.endswith(" on pts/0)")
    terminals.open(0, typed=61, printed=75)
    assert (await terminals.sensor().look(AT)).busy is False


async def test_of_several_terminals_the_newest_use_counts(terminals: Terminals):
    terminals.open(0, typed=200, printed=190)
    terminals.open(300, typed=200, printed=2)
    terminals.run(11, "python", line=300)
    seen = await terminals.sensor().look(AT)
    assert (seen.busy, seen.last_used) == (True, AT - timedelta(minutes=2))
    assert seen.reason.startswith("terminal idle 2 min (")
    assert seen.reason.endswith(" on pts/300, and 1 more)")


async def test_what_this_service_prints_is_no_use(terminals: Terminals):
    terminals.open(3, typed=90, printed=0)
    terminals.run("self", "dswbot", line=3)
    seen = await terminals.sensor().look(AT)
    assert (seen.busy, seen.last_used) == (False, AT - timedelta(minutes=90))
    assert "idle 1 h 30 min" in seen.reason
    terminals.open(3, typed=1, printed=0)
    assert (await terminals.sensor().look(AT)).busy


async def test_what_a_multiplexer_shows_is_noted_where_it_runs(terminals: Terminals):
    terminals.open(0, typed=90, printed=0)
    terminals.run(20, "tmux: client", line=0, front=True)
    terminals.open(1, typed=90, printed=90)
    assert (await terminals.sensor().look(AT)).busy is False
    terminals.open(1, typed=90, printed=5)
    assert (await terminals.sensor().look(AT)).last_used == AT - timedelta(minutes=5)


async def test_nobody_is_logged_in_and_the_last_use_is_remembered(terminals: Terminals):
    sensor = terminals.sensor()
    assert await sensor.look(AT) == Signal("logins", False, "nobody is logged in", AT)
    terminals.open(0, typed=3, printed=3)
    await sensor.look(AT)
    (terminals.dev / "pts/0").unlink()
    assert (await sensor.look(AT)).last_used == AT - timedelta(minutes=3)


async def test_without_terminals_to_look_at_it_is_unknown(tmp_path: Path):
    (tmp_path / "proc").mkdir()
    (signal,) = await look_all([Logins(proc=tmp_path / "proc", dev=tmp_path / "dev", utmp=())], AT)
    assert signal.busy is None


def record(kind: int, line: bytes, user: bytes) -> bytes:
    return RECORD.pack(kind, 7, line, b"id", user, b"10.0.0.9", 0, 0, 7, 1700000000, 0, 0, 0, 0, 0)


async def test_utmp_tells_names_and_terminals_beside_the_pseudo_ones(terminals: Terminals, tmp_path: Path):
    assert RECORD.size == 384
    utmp = tmp_path / "utmp"
    entries = [record(2, b"~", b"reboot"), record(7, b"tty1", b"ann"), record(7, b"pts/9", b"gone"),
               record(8, b"pts/0", b"dead")]  # fmt: skip
    utmp.write_bytes(b"".join(entries) + b"half a record")
    assert utmp_users(utmp) == {"tty1": "ann", "pts/9": "gone"}
    os.utime(write(terminals.dev / "tty1", ""), (AT.timestamp() - 240, AT.timestamp() - 300))
    seen = await terminals.sensor(tmp_path / "missing", utmp).look(AT)
    assert (seen.busy, seen.reason) == (True, "terminal idle 4 min (ann on tty1)")


async def test_a_terminal_used_in_the_future_is_used_now(terminals: Terminals):
    terminals.open(0, typed=-600, printed=-600)
    seen = await terminals.sensor().look(AT)
    assert (seen.busy, seen.last_used) == (True, AT)


def test_processes_are_read_whatever_their_names(terminals: Terminals):
    terminals.run(7, "a) (b c", parent=3, line=700, front=True)
    found = process(7, terminals.proc)
    assert found
    assert (found.name, found.parent, found.line, found.in_front, found.started) == ("a) (b c", 3, "pts/700", True, 5.0)
    write(terminals.proc / "8/stat", "8 (x")
    assert process(8, terminals.proc) is None
    assert process(9, terminals.proc) is None
    assert booted_at(terminals.proc) == 1700000000.0


def test_our_output_may_go_to_another_terminal(terminals: Terminals):
    terminals.run("self", "dswbot", line=1)
    (terminals.proc / "self/fd").mkdir()
    (terminals.proc / "self/fd/1").symlink_to("/dev/pts/4")
    (terminals.proc / "self/fd/2").symlink_to("/var/log/dswbot.log")
    assert lines_of_this_process(terminals.proc) == {"pts/1", "pts/4"}


@given(st.binary(max_size=900))
def test_any_bytes_are_no_reason_to_fail(tmp_path_factory: pytest.TempPathFactory, raw: bytes):
    path = tmp_path_factory.mktemp("utmp") / "utmp"
    path.write_bytes(raw)
    assert len(utmp_users(path)) <= len(raw) // struct.calcsize("384x")


# --- the service itself


async def answer(value: object) -> object:
    return value


async def test_requests_count_while_they_are_answered_or_wait():
    before = AT - timedelta(minutes=9)
    load = Workload(0, 0, before)
    sensor = Requests(lambda: answer(load))
    assert await sensor.look(AT) == Signal("requests", False, "no message waits", AT, before)
    load = Workload(1, 2, before)
    assert await sensor.look(AT) == Signal("requests", True, "1 answer under way, 2 waiting", AT, AT)
    load = Workload(0, 1, None)
    assert (await sensor.look(AT)).reason == "0 answers under way, 1 waiting"


async def test_streams_and_downloads_count_while_they_last():
    later = AT + timedelta(minutes=1)
    open_now, names = 2, ["qwen3-4b"]
    streams, downloads = Streams(lambda: open_now), Downloads(lambda: names)
    assert await streams.look(AT) == Signal("streams", True, "2 streams open", AT, AT)
    assert await downloads.look(AT) == Signal("downloads", True, "downloading qwen3-4b", AT, AT)
    open_now, names = 0, []
    assert await streams.look(later) == Signal("streams", False, "no stream is open", later, AT)
    assert await downloads.look(later) == Signal("downloads", False, "nothing is being downloaded", later, AT)
