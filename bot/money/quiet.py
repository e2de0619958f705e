"""Hours in which nobody wants a message. Wall-clock time of one place: they follow its daylight saving."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from bot.errors import ConfigError

DAY = 24 * 60  # minutes
SPAN = re.compile(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*")


class QuietHoursInvalid(ConfigError):
    """Quiet hours are written 23:00-08:00; several with commas between them."""


@dataclass(frozen=True, slots=True)
class QuietHours:
    """`spans`: first minute of the day and the one after the last; over midnight where that is smaller."""

    spans: tuple[tuple[int, int], ...] = ()
    zone: tzinfo = UTC

    @classmethod
    def parse(cls, text: str, zone: str) -> "QuietHours":
        """`text`: `23:00-08:00, 12:30-14:00`, or nothing. `zone`: an IANA name. Raises QuietHoursInvalid."""
        return cls(tuple(_span(part) for part in text.split(",") if part.strip()), ZoneInfo(zone))

    def cover(self, at: datetime) -> bool:
        local = at.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        return any(
            first <= minute < end if first < end else minute >= first or minute < end for first, end in self.spans
        )


NO_QUIET_HOURS = QuietHours()


def _span(text: str) -> tuple[int, int]:
    match = SPAN.fullmatch(text)
    if not match:
        raise QuietHoursInvalid
    hour, minute, last_hour, last_minute = (int(group) for group in match.groups())
    first, end = hour * 60 + minute, last_hour * 60 + last_minute
    if max(minute, last_minute) > 59 or first >= DAY or end > DAY or first == end:
        raise QuietHoursInvalid
    return first, end
