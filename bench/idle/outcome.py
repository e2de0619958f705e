"""What a rule did on a trace, and what that cost."""

from dataclasses import dataclass, field

from bench.idle.trace import Trace

WAKE_MINUTES = 5.0  # paid until the machine is of use again


@dataclass(slots=True)
class Outcome:
    """`idle`: minutes paid without use, without those of the wakes."""

    name: str
    idle: float = 0.0
    wakes: int = 0
    stops: int = 0
    wrong: list[str] = field(default_factory=list)  # stops while something was in use
    found: float | None = None  # share of the idle minutes that it took for idle
    down: int = 0  # idle minutes in which its service did not run
    absent: int = 0  # idle minutes in which a quiet login counted as use
    reminders: int | None = None
    repeated: int = 0  # reminders beyond the first of a kind in a spell
    alerts: int = 0

    def paid(self, wake: float = WAKE_MINUTES) -> float:
        return self.idle + self.wakes * wake


def idle_minutes(trace: Trace) -> int:
    return sum(not minute.used for minute in trace.minutes)
