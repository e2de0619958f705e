"""How much prefill a step may hold, and what bringing a cache costs: learned from what this machine does."""

from dataclasses import dataclass, field

from inference.placement import Costs
from inference.scheduler import GRAIN

LEAST_DECODE = 0.012  # seconds that a decoding step is taken for at least: a shorter one may be held up by as much
CALM = 2.0  # decoding steps' worth of prefill beside one
BUSY = 0.036  # seconds of it, or as much as when calm, where some wait for their first token
ALONE = 0.15  # seconds where nobody is held up, as long as nobody else can begin
RUSH = 0.5  # seconds where as many wait for their first token as for their next one
LONG = 256  # tokens: a pass for less costs about as much as one for so many, and a rush of such gains little
MANY = 4
LEAST_ALONE = 512  # tokens that are computed at once where nobody is held up, at least
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

    def budget(self, *, waiting: int, decoding: int, backlog: int, spent: float = 0.0) -> int:
        """Prompt tokens in a step: the `waiting` prompts gain what the `decoding` sequences lose.

        `backlog`: the tokens of these prompts; `spent`: seconds that went to bringing their caches in this step.

        A step for few costs nearly as much as one for all, so a crowd that comes at once is let in in a few long
        steps, when few are held up by them, and the last of it beside those who are being answered.
        """
        if not decoding:
            return max(LEAST_ALONE, int((RUSH if waiting >= MANY else ALONE) * float(self.prefill)))
        seconds = CALM * max(LEAST_DECODE, float(self.decode))
        if 4 * waiting >= decoding:
            seconds = max(seconds, BUSY)
        if waiting >= MANY and backlog >= LONG * waiting:
            seconds = max(seconds, RUSH * min(1.0, waiting / decoding) ** 3)
        return max(GRAIN, int((seconds - spent) * float(self.prefill)))

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
