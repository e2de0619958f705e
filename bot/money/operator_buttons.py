"""The buttons that operators are offered, and what a press on one says. Pure.

A button's data is `op:INSTANCE:EPOCH:CHOICE` or `op:INSTANCE:EPOCH:CHOICE:NUMBER`, where INSTANCE is six digits that
tell one instance from another, and EPOCH the idle spell in which it was offered. A time of the clock is the NUMBER
itself, so that a button does what it says whenever it is pressed.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from bot.money.operator_words import CHINESE, ENGLISH, Words, words_for

DATA = re.compile(r"op:([0-9a-f]{6}):([0-9]{1,9}):([a-z]+)(?::([0-9]{1,11}))?")
EVENING, MORNING = time(18), time(9)
SMALL_HOURS = 5  # before this hour "tomorrow" would be misread: the morning that is meant is today's
SOON = timedelta(minutes=30)  # a time that is nearer is not offered


class Choice(StrEnum):
    """What a button is for."""

    ASK = "ask"  # whether it is really to be stopped
    STOP = "stop"
    FORCE = "force"  # also what is in use
    KEEP = "keep"  # it was not meant
    HOLD = "hold"  # for so many minutes
    UNTIL = "until"  # a time, in seconds since 1970
    MUTE = "mute"
    WAKE = "wake"


@dataclass(frozen=True, slots=True)
class Button:
    """`data` is at most 64 bytes."""

    label: str
    data: str


Rows = tuple[tuple[Button, ...], ...]


@dataclass(frozen=True, slots=True)
class Press:
    """What a button's data says."""

    epoch: int
    choice: Choice
    number: int


@dataclass(frozen=True, slots=True)
class Buttons:
    """Those of one instance. `language`: of the labels; both languages where it is empty."""

    instance: str
    zone: ZoneInfo

    def choices(self, epoch: int, language: str, at: datetime, *, stop: bool, hold: bool = True) -> Rows:
        """What can be done with an instance that is up."""
        offers = [(Choice.ASK, 0, _label("stop", language))] if stop else []
        holds = [(Choice.HOLD, 30, _label("minutes", language, count=30)),
                 (Choice.HOLD, 120, _label("hours", language, count=2)),
                 *self._times(at, language)]  # fmt: skip
        mute = [(Choice.MUTE, 0, _label("mute", language))]
        rows = [offers + holds[:1], holds[1:], mute] if hold else [offers]
        return tuple(tuple(self._button(epoch, *one) for one in row) for row in rows if row)

    def confirm(self, epoch: int, language: str, *, used: bool) -> Rows:
        """The second question before a stop."""
        yes, no = Choice.FORCE if used else Choice.STOP, Choice.KEEP
        offers = ((yes, 0, _label("yes", language)), (no, 0, _label("no", language)))
        return (tuple(self._button(epoch, *one) for one in offers),)

    def wake(self, epoch: int, language: str) -> Rows:
        return ((self._button(epoch, Choice.WAKE, 0, _label("wake", language)),),)

    def press(self, data: str) -> Press | None:
        """None where it is no button of this instance."""
        match = DATA.fullmatch(data)
        if not match or match[1] != self._tag or match[3] not in set(Choice):
            return None
        return Press(int(match[2]), Choice(match[3]), int(match[4] or 0))

    def _times(self, at: datetime, language: str) -> list[tuple[Choice, int, str]]:
        local = at.astimezone(self.zone)
        evening = datetime.combine(local, EVENING, self.zone)
        later = local.hour >= SMALL_HOURS
        morning = datetime.combine(local + timedelta(days=later), MORNING, self.zone)
        times = [(evening, "until")] if evening - local >= SOON else []
        return [
            (Choice.UNTIL, int(when.timestamp()), _label(name, language, time=f"{when:%H:%M}"))
            for when, name in [*times, (morning, "until_tomorrow" if later else "until")]
        ]

    def _button(self, epoch: int, choice: Choice, number: int, label: str) -> Button:
        return Button(label, f"op:{self._tag}:{epoch}:{choice}" + (f":{number}" if number else ""))

    @property
    def _tag(self) -> str:
        return hashlib.sha256(self.instance.encode()).hexdigest()[:6]


def _label(name: str, language: str, **figures: object) -> str:
    chosen: tuple[Words, ...] = (words_for(language),) if language else (ENGLISH, CHINESE)
    return " / ".join(str(getattr(words, name)).format(**figures) for words in chosen)
