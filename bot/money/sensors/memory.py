"""What sensors remember between looks."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class LastUse:
    """The newest use that a sensor knows of; never in the future, also after the clock was set back."""

    newest: datetime | None = None

    def seen(self, at: datetime, used: datetime | None) -> datetime | None:
        """Takes note of a use, if there was one, and returns the newest."""
        self.newest = max((min(time, at) for time in (self.newest, used) if time), default=None)
        return self.newest
