"""What a GPU's readings say of its use. Pure: readings in, a verdict out."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from bot.money.sensors.meter import GAP

PERCENT = 5  # of a sampling period with a kernel running; an idle GPU shows 0
IDLE_KEPT = 60  # quiet readings whose power is remembered: a model that is loaded raises it for good
MARGIN = (0.10, 3.0)  # of the idle power, and watts: more than it wavers by
PLAUSIBLE = 0.5  # of the power limit: more than an idle GPU draws


@dataclass(frozen=True, slots=True)
class Sample:
    """`stamp`: microseconds of the driver's clock. `percent`: of the period that ended then, with a kernel running."""

    stamp: int
    percent: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What one GPU said. None: it does not tell, as under MIG, or on old and on virtual ones."""

    at: float  # seconds, monotonic
    samples: tuple[Sample, ...] | None = None  # all that the driver still has
    percent: int | None = None  # now
    joules: float | None = None  # since the driver was loaded
    watts: float | None = None  # now
    limit: float | None = None  # watts
    trouble: str = ""  # why it does not tell


@dataclass(frozen=True, slots=True)
class Use:
    """Whether one GPU was in use since the last look. `percent`: its highest utilisation, where that is known."""

    busy: bool | None
    percent: int
    reason: str


class GpuUse:
    """Follows one GPU. Samples tell best; where there are none, the energy used beside the utilisation now; where
    that is missing too, the power alone."""

    def __init__(self, index: int) -> None:
        self._gpu = f"GPU {index}"
        self._last: Reading | None = None
        self._newest: int | None = None  # stamp
        self._quiet: deque[float] = deque(maxlen=IDLE_KEPT)  # watts while the utilisation was low
        self._lowest: float | None = None  # watts, ever
        self._begin(None)

    def _begin(self, at: float | None) -> None:
        """Begins the span of time that the next look is told of."""
        self._since = at
        self._percent: int | None = None
        self._excess = 0.0  # watts over idle
        self._gap = False

    def add(self, new: Reading) -> None:
        """Takes note of a reading."""
        fresh = self._fresh(new.samples or ())
        percents = [sample.percent for sample in fresh] + ([] if new.percent is None else [new.percent])
        if percents:
            self._percent = max(*percents, self._percent or 0)
        watts = _mean_watts(self._last, new)
        if watts is not None and not fresh:
            self._weigh(watts, max(percents, default=None))
        self._gap = self._gap or bool(self._last and new.at - self._last.at > GAP)
        self._last = new

    def _fresh(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those not seen yet; all of them where the clock was set back."""
        newest = max((sample.stamp for sample in samples), default=None)
        known = self._newest
        if newest is None:
            return []
        self._newest = newest
        return [sample for sample in samples if known is None or newest < known or sample.stamp > known]

    def _weigh(self, watts: float, percent: int | None) -> None:
        """Compares a power with the idle power, and learns that."""
        idle = self._lowest if percent is None else min(self._quiet, default=None)
        share, more = MARGIN
        if idle is not None and watts > idle * (1 + share) + more:
            self._excess = max(self._excess, watts - idle)
        if percent is None:
            self._lowest = watts if self._lowest is None else min(self._lowest, watts)
        elif percent < PERCENT:
            self._quiet.append(watts)

    def take(self) -> Use:
        """What was seen since this was last asked."""
        last = self._last
        if last is None:
            return Use(None, 0, f"{self._gpu} was not read yet")
        span = "just now" if self._since is None else f"in the last {last.at - self._since:.0f} s"
        use = self._use(last, span)
        self._begin(last.at)
        return use

    def _use(self, last: Reading, span: str) -> Use:
        percent = self._percent or 0
        if percent >= PERCENT:
            return Use(True, percent, f"{self._gpu} worked up to {percent} % {span}")
        if self._excess:
            return Use(True, percent, f"{self._gpu} drew {self._excess:.0f} W more than when idle {span}")
        if self._gap:
            return Use(None, percent, f"{self._gpu} was not watched all the time {span}")
        if self._percent is not None:
            return Use(False, percent, f"{self._gpu} worked {percent} % {span}")
        if self._lowest is not None and last.limit and self._lowest < PLAUSIBLE * last.limit:
            return Use(False, 0, f"{self._gpu} drew no more than {self._lowest:.0f} W when idle {span}")
        return Use(None, 0, f"{self._gpu} does not tell how much it works: {last.trouble or 'no samples'}")


def _mean_watts(last: Reading | None, new: Reading) -> float | None:
    """By the energy counter, or now where there is none yet or it began anew."""
    if last and last.joules is not None and new.joules is not None and new.joules >= last.joules and new.at > last.at:
        return (new.joules - last.joules) / (new.at - last.at)
    return new.watts
