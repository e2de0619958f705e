"""One simulated machine: who used it in which minute, and what went wrong around it.

A minute is in use if somebody waits for the machine or works at it: an answer or a cell is computed, a training or a
download runs, or somebody sits at an SSH session, reading included. Pauses between the messages of a chat or between
the cells of a notebook are not: nothing is lost if the machine goes away in them, but the next message pays for a
wake. A login whose owner has left is not in use either, which no sensor can see.
"""

import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
CORES = 8  # of the machine
NOBODY = -1

# (from, to, probability that somebody works then), local hours
WEEKDAY = ((9.0, 12.0, 0.58), (13.5, 18.0, 0.69), (19.5, 23.0, 0.42))
WEEKEND = ((10.5, 13.0, 0.21), (15.0, 19.0, 0.32), (20.0, 23.5, 0.27))
KINDS = ("chat", "notebook", "ssh", "download")
SHARES = (74, 16, 6, 4)


@dataclass(slots=True)
class Minute:
    """What happened on the machine. `typed`: the minute in which its newest login was last typed in."""

    used: bool = False
    requests: bool = False
    kernel: bool = False
    gpu: float = 0.0  # percent
    cpu: float = 0.06  # cores
    network: float = 3_000.0  # bytes a second
    login: int = NOBODY  # minute in which the session began
    typed: int = NOBODY


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes from `first` to before `end`; `what` is a sensor's name, or the clock's offset in minutes."""

    first: int
    end: int
    what: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    begin: datetime  # UTC
    zone: ZoneInfo
    minutes: list[Minute]
    blind: list[Window]  # a sensor tells nothing
    down: list[Window]  # the service does not run
    clock: list[Window]  # the clock is wrong
    refusing: list[Window]  # DSW refuses calls

    def at(self, minute: float) -> datetime:
        return self.begin + minute * MINUTE

    def gaps(self) -> list[tuple[int, int]]:
        """Spans without use, as minutes from and to."""
        found, began = [], 0
        for number, minute in enumerate(self.minutes):
            if minute.used:
                if number > began:
                    found.append((began, number))
                began = number + 1
        return [*found, (began, len(self.minutes))] if began < len(self.minutes) else found


@dataclass(slots=True)
class _People:
    """Writes what they do into the minutes."""

    chance: random.Random
    minutes: list[Minute]
    open_until: list[tuple[int, int, int]] = field(default_factory=list)  # logins: began, last typed, closed

    def _span(self, median: float, sigma: float, most: float = 1e9) -> int:
        """Minutes, log-normal."""
        return max(1, round(min(most, self.chance.lognormvariate(0.0, sigma) * median)))

    def _mark(self, number: int, **values: float | bool) -> None:
        if not 0 <= number < len(self.minutes):
            return
        minute = self.minutes[number]
        minute.used = True
        for name, value in values.items():
            setattr(minute, name, max(getattr(minute, name), value))

    def chat(self, at: int) -> int:
        """Messages with pauses in which a human reads, thinks, or does something else."""
        for _ in range(2 + int(self.chance.expovariate(1 / 4))):
            for _ in range(1 if self.chance.random() < 0.75 else 2):
                self._mark(at, requests=True, gpu=self.chance.uniform(15, 70), cpu=self.chance.uniform(0.3, 1.0))
                at += 1
            at += self._span(2.2, 1.0, 45) if self.chance.random() < 0.8 else 0
        return at

    def notebook(self, at: int) -> int:
        for _ in range(self.chance.randint(4, 14)):
            on_gpu = self.chance.random() < 0.7
            for _ in range(1 if self.chance.random() < 0.6 else self._span(3, 0.8, 40)):
                gpu = self.chance.uniform(20, 95) if on_gpu else 0.0
                self._mark(at, kernel=True, gpu=gpu, cpu=self.chance.uniform(0.2, 1.2))
                at += 1
            at += self._span(3.5, 0.9, 60)
        return at

    def ssh(self, at: int) -> int:
        """Editing and reading; two in five leave the session open when they go."""
        began, end, typed = at, at + self.chance.randint(15, 110), at
        pause = 0
        for number in range(at, end):
            self._mark(number, cpu=self.chance.uniform(0.06, 0.3))
            if pause == 0:
                typed, pause = number, self._span(2.5, 1.0, 40) if self.chance.random() < 0.5 else 0
            else:
                pause -= 1
            self._login(number, began, typed)
        closed = end + (self.chance.randint(60, 900) if self.chance.random() < 0.4 else 0)
        for number in range(end, closed):
            self._login(number, began, typed)
        return end

    def _login(self, number: int, began: int, typed: int) -> None:
        if 0 <= number < len(self.minutes) and typed >= self.minutes[number].typed:
            self.minutes[number].login, self.minutes[number].typed = began, typed

    def download(self, at: int) -> int:
        """Little of a processor, nothing of the GPU, and a stall now and then."""
        end = at + self._span(24, 0.8, 180)
        stall = 0
        for number in range(at, end):
            stall = stall - 1 if stall else (self.chance.randint(1, 4) if self.chance.random() < 0.02 else 0)
            rate = 2_000.0 if stall else self.chance.uniform(2e6, 4e7)
            self._mark(number, network=rate, cpu=0.1 if stall else self.chance.uniform(0.2, 0.6))
        return end

    def training(self, at: int, median: float) -> int:
        """A third of them prepare data or write checkpoints on a core or two, with the GPU at 0 %."""
        end = at + self._span(median, 0.6, 720)
        in_phases = self.chance.random() < 0.35
        phase, until_next = 0, self.chance.randint(20, 60)
        for number in range(at, end):
            until_next -= 1
            if in_phases and until_next <= 0:
                phase, until_next = self.chance.randint(3, 25), self.chance.randint(30, 70)
            if phase:
                phase -= 1
                self._mark(number, cpu=self.chance.uniform(0.55, 2.0))
            else:
                self._mark(number, gpu=self.chance.uniform(80, 99), cpu=self.chance.uniform(0.9, 3.0))
        return end

    def work(self, first: int, end: int) -> None:
        """One sitting: this and that, with breaks between."""
        at = first + self.chance.randint(0, 40)
        while at < end:
            kind = self.chance.choices(KINDS, SHARES)[0]
            at = getattr(self, kind)(at)
            at += self._span(40, 0.9, 150)


def simulate(seed: int, days: int, zone: str = "Europe/Berlin", first: date = date(2026, 3, 9)) -> Trace:
    """A month of one team's use. The default one has a change to daylight saving in it."""
    chance = random.Random(seed)
    place = ZoneInfo(zone)
    begin = datetime.combine(first, time(), place).astimezone(UTC)
    count = days * 24 * 60
    people = _People(chance, [Minute() for _ in range(count)])

    def minute(day: date, hour: float) -> int:
        local = datetime.combine(day, time(), place) + timedelta(hours=hour)
        return int((local.astimezone(UTC) - begin) / MINUTE)

    for number in range(days):
        day = first + timedelta(days=number)
        weekend = day.weekday() >= 5
        for start, end, likely in WEEKEND if weekend else WEEKDAY:
            if chance.random() < likely:
                people.work(minute(day, start), minute(day, end))
        if chance.random() < (0.45 if weekend else 0.8):
            people.training(minute(day, chance.uniform(10, 20)), 170)
        if chance.random() < 0.3:
            people.training(minute(day, chance.uniform(22, 24)), 360)
        _night_jobs(people.minutes, minute(day, 3.5))
    return Trace(begin, place, people.minutes, *_faults(chance, count))


def _night_jobs(minutes: list[Minute], at: int) -> None:
    """The system's own: not use, but a sensor sees them."""
    if 0 <= at < len(minutes):
        minutes[at].cpu = max(minutes[at].cpu, 0.9)


def _faults(chance: random.Random, count: int) -> tuple[list[Window], list[Window], list[Window], list[Window]]:
    months = count / (30 * 24 * 60)

    def windows(a_month: int, least: int, most: int, *what: str) -> list[Window]:
        spans = []
        for _ in range(max(1, round(a_month * months))):
            first = chance.randrange(count)
            spans.append(Window(first, first + chance.randint(least, most), chance.choice(what) if what else ""))
        return spans

    sensors = ("gpu", "cpu", "network", "logins", "kernels")
    blind = windows(8, 1, 3, *sensors) + windows(2, 15, 35, *sensors)
    down = windows(12, 1, 2) + windows(2, 10, 45)
    clock = windows(4, 5, 60, "-90", "-7", "8", "200")
    return blind, down, clock, windows(6, 5, 60)
