"""What becomes of what an operator asks: an order, or the reason why not. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from bot.money.operator_buttons import Buttons, Choice, Press, Rows
from bot.money.operator_words import Words, words_for
from bot.money.situation import Memory, Rules, State
from storage.orders import Kind

DOWN = frozenset({State.STOPPED, State.BLOCKED})
STARTING = frozenset({State.WAKING, State.WARMING})
LONGEST = timedelta(days=1)  # that a command holds it
FURTHEST = timedelta(days=2)  # that a button holds it
REASON = 100  # characters of it that a toast shows
SPAN = re.compile(r"(\d{1,4}(?:\.\d{1,2})?)\s*(m|min|h|分钟|小时)")
CLOCK = re.compile(r"([01]?\d|2[0-3])[:：]([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Pressed:
    """`toast` is told at once. `line` is added to the message. `keyboard` replaces its buttons; None: they stay, or go
    where a line is added."""

    toast: str
    line: str = ""
    keyboard: Rows | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is answered, and the order that follows, if one does."""

    pressed: Pressed
    kind: Kind | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, when and in which language, and how the instance is, with the reason that was given for that."""

    memory: Memory
    reason: str
    language: str
    by: str
    at: datetime

    @property
    def words(self) -> Words:
        return words_for(self.language)


@dataclass(frozen=True, slots=True)
class Rulings:
    """Those over one instance."""

    buttons: Buttons
    rules: Rules

    def press(self, press: Press, asked: Asked) -> Ruling:
        match press.choice:
            case Choice.HOLD:
                return self.hold(asked.at + min(timedelta(minutes=press.number), 2 * FURTHEST), asked)
            case Choice.UNTIL:
                return self.hold(datetime.fromtimestamp(press.number, UTC), asked)
            case Choice.MUTE:
                return self._mute(asked)
            case Choice.WAKE:
                return self._wake(asked)
            case Choice.KEEP:
                return Ruling(Pressed(asked.words.kept, keyboard=self._choices(asked)))
            case Choice.ASK | Choice.STOP | Choice.FORCE:
                return self._refused(press, asked) or self._stop(press, asked)

    def hold(self, until: datetime, asked: Asked) -> Ruling:
        """Whatever the idle spell, as long as it is up."""
        words, state = asked.words, asked.memory.state
        if state in DOWN:
            return self._is_down(asked)
        if state is State.STOPPING:
            return Ruling(Pressed(words.going))
        if not asked.at < until <= asked.at + FURTHEST:
            return Ruling(Pressed(words.passed, keyboard=self._choices(asked)))
        end = moment(until, asked.at, self.buttons.zone, words)
        return Ruling(
            Pressed(words.held.format(until=end), words.held_line.format(until=end, by=asked.by)), "hold", until
        )

    def _mute(self, asked: Asked) -> Ruling:
        """Until midnight."""
        zone, words = self.buttons.zone, asked.words
        until = datetime.combine(asked.at.astimezone(zone) + timedelta(days=1), time(), zone)
        end = moment(until, asked.at, zone, words)
        pressed = Pressed(words.muted.format(until=end), words.muted_line.format(until=end, by=asked.by))
        return Ruling(pressed, "mute", until.astimezone(UTC))

    def _wake(self, asked: Asked) -> Ruling:
        if asked.memory.state not in DOWN:
            return Ruling(Pressed(asked.words.up, keyboard=()))
        return Ruling(Pressed(asked.words.waking, self._signed(asked.words.waking_line, asked)), "wake")

    def _refused(self, press: Press, asked: Asked) -> Ruling | None:
        """A stop is for the spell in which it was offered: what was idle then may be at work now."""
        words, memory = asked.words, asked.memory
        if memory.state in DOWN:
            return self._is_down(asked)
        if memory.state is State.STOPPING:
            return Ruling(Pressed(words.down, keyboard=()))
        if memory.state in STARTING:
            return Ruling(Pressed(words.starting))
        if press.epoch != memory.epoch:
            return Ruling(Pressed(words.old, keyboard=self._choices(asked, stop=False)))
        if not self.rules.may_stop:
            return Ruling(Pressed(words.not_allowed, keyboard=self._choices(asked, stop=False)))
        return None

    def _stop(self, press: Press, asked: Asked) -> Ruling:
        """Asked for, it is asked once more: fingers are fat."""
        words, used = asked.words, asked.memory.state is State.ACTIVE
        if press.choice is Choice.ASK:
            question = words.really_used.format(reason=asked.reason[:REASON]) if used else words.really
            return Ruling(Pressed(question, keyboard=self.buttons.confirm(press.epoch, asked.language, used=used)))
        kind: Kind = "force" if press.choice is Choice.FORCE else "stop"
        return Ruling(Pressed(words.stopping, self._signed(words.stopping_line, asked)), kind)

    def _is_down(self, asked: Asked) -> Ruling:
        return Ruling(Pressed(asked.words.down, keyboard=self.buttons.wake(asked.memory.epoch, asked.language)))

    def _choices(self, asked: Asked, *, stop: bool = True) -> Rows:
        return self.buttons.choices(asked.memory.epoch, asked.language, asked.at, stop=stop and self.rules.may_stop)

    def _signed(self, line: str, asked: Asked) -> str:
        return line.format(at=moment(asked.at, asked.at, self.buttons.zone, asked.words), by=asked.by)


def hold_end(text: str, at: datetime, zone: ZoneInfo) -> datetime | None:
    """The end of a hold as somebody types it: `30m`, `2h`, or `18:00`, today or else tomorrow. None where it is none,
    or further away than a day."""
    text = text.strip().lower()
    if match := SPAN.fullmatch(text):
        span = timedelta(minutes=float(match[1]) * (60 if match[2] in ("h", "小时") else 1))
        return at + span if timedelta() < span <= LONGEST else None
    if match := CLOCK.fullmatch(text):
        local, clock = at.astimezone(zone), time(int(match[1]), int(match[2]))
        ends = (datetime.combine(local + timedelta(days=days), clock, zone).astimezone(UTC) for days in (0, 1))
        return next(end for end in ends if end > at)
    return None


def moment(when: datetime, at: datetime, zone: ZoneInfo, words: Words) -> str:
    """`14:30 (Asia/Shanghai)`, with the day where that is not the day of `at`."""
    local = when.astimezone(zone)
    same = local.date() == at.astimezone(zone).date()
    return f"{local.strftime('%H:%M' if same else words.other_day)} ({zone})"
