"""Processes, as /proc tells of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PTS_MAJOR = 136


@dataclass(frozen=True, slots=True)
class Process:
    """`line`: its terminal as `pts/3`, or None. `in_front`: whether it is in that terminal's foreground."""

    pid: int
    name: str
    parent: int
    line: str | None
    in_front: bool
    started: float  # seconds after the system's start


def _line(device: int) -> str | None:
    """The pseudo-terminal with this device number, laid out as in `tty_nr`."""
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    return f"pts/{minor}" if major == PTS_MAJOR else None


def process(pid: int | str, proc: Path = PROC) -> Process | None:
    """None where there is none, or it may not be looked at."""
    try:
        head, _, tail = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        number, _, name = head.partition("(")
        fields = tail.split()  # from the third on: the name may hold anything
        parent, group, tty, front = (int(fields[n]) for n in (1, 2, 4, 5))
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return Process(int(number), name, parent, _line(tty), group == front, started)
    except (OSError, ValueError, IndexError):
        return None


def processes(proc: Path = PROC) -> Iterator[Process]:
    """All that can be seen."""
    for entry in proc.iterdir():
        if entry.name.isdigit() and (found := process(entry.name, proc)):
            yield found


def booted_at(proc: Path = PROC) -> float | None:
    """When the system started, in seconds of the epoch."""
    try:
        lines = (proc / "stat").read_text(encoding="ascii", errors="replace").splitlines()
        return float(next(line for line in lines if line.startswith("btime ")).split()[1])
    except (OSError, ValueError, StopIteration):
        return None


def lines_of_this_process(proc: Path = PROC) -> frozenset[str]:
    """The pseudo-terminals on which this process may print: its own, and those that its output goes to."""
    own = process("self", proc)
    lines = {own.line} if own and own.line else set()
    for number in (1, 2):
        try:
            target = (proc / "self/fd" / str(number)).readlink()
        except OSError:
            continue
        if target.parts[:3] == ("/", "dev", "pts"):
            lines.add(f"pts/{target.name}")
    return frozenset(lines)
