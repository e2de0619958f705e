"""How much prefill a step may hold, and what bringing a cache costs: learned from what this machine does."""

from dataclasses import dataclass, field

from inference.placement import Costs
from inference.scheduler import GRAIN

LEAST_DECODE = 0.012  # seconds that a decoding step is taken for at least: a shorter one may be held up by as much
CALM = 2.0  # decoding steps' worth of prefill beside one
BUSY = 0.032  # seconds of it, or as much as when calm, where some wait for their first token
RUSH = 0.15  # at most, where many wait
MANY = 4
SHARE = 8  # of what they all have to wait for, one step may take this part
LEARNING = 0.2  # weight of the newest measurement


@dataclass(slots=True)
class Average:
    """An exponential moving average; `start` until something was measured."""

    start: float
    value: float = 0.0

    def note(self, value: float) -> None:
        self.value = value if not self.value else (1 - LEARNING) * self.value + LEARNING * value

    def __float__(self) -> float:
        return self.value or self.start


@dataclass(slots=True)
class Pace:
    """Moving averages of a machine's rates."""

    prefill: Average = field(default_factory=lambda: Average(200.0))  # tokens a second
    decode: Average = field(default_factory=lambda: Average(LEAST_DECODE))  # seconds a step
    copy: float = 1e-3  # seconds
    host: Average = field(default_factory=lambda: Average(2e9))  # bytes a second
    disk: float = 5e8

    def budget(self, *, waiting: int, decoding: int, backlog: int) -> int:
        """Prompt tokens in a step beside decoding: `waiting` prompts gain what `decoding` sequences lose.

        `backlog`: tokens that the prompts have to be computed of. A step for few costs nearly as much as one for all,
        so a crowd that comes at once is let in in a few long steps.
        """
        calm = CALM * max(LEAST_DECODE, float(self.decode))
        rush = min(RUSH, backlog / float(self.prefill) / SHARE) if waiting >= MANY else 0.0
        most = max(BUSY, rush) if 4 * waiting >= decoding else 0.0
        seconds = max(calm, most)
        return max(GRAIN, int(seconds * float(self.prefill)))

    def note_step(self, *, prefill: int, rows: int, seconds: float) -> None:
        """`prefill`: tokens computed in passes of the step, their overhead counted in."""
        if rows and not prefill:
            self.decode.note(seconds)
        elif prefill >= 2 * GRAIN:
            seconds -= float(self.decode) if rows else 0.0
            self.prefill.note(prefill / max(seconds, 1e-4))

    @property
    def costs(self) -> Costs:
        return Costs(float(self.prefill), self.copy, float(self.host), self.disk)
