"""When somebody must be told that the machine is idle. Pure: evidence in, decision out."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at `now`. `running_since`: when this span of the service began, restarts not counted."""

    now: datetime
    running_since: datetime
    last_activity: datetime | None
    busy: bool  # a message waits or is being answered


@dataclass(frozen=True, slots=True)
class Rates:
    """What an hour costs, where the operator has said so."""

    yuan: float | None = None
    compute_hours: float | None = None


@dataclass(frozen=True, slots=True)
class IdleSpell:
    """The machine has been up and unused from `since` on."""

    since: datetime
    lasted: timedelta
    up: timedelta

    @property
    def key(self) -> str:
        """The same for one spell, whenever and by whichever process it is looked at."""
        return self.since.isoformat(timespec="seconds")


def idle_spell(evidence: Evidence, after: timedelta) -> IdleSpell | None:
    """The idle spell to be reminded of, if it has lasted for `after`."""
    if evidence.busy:
        return None
    since = max(evidence.running_since, evidence.last_activity or evidence.running_since)
    lasted = evidence.now - since
    return IdleSpell(since, lasted, evidence.now - evidence.running_since) if lasted >= after else None
