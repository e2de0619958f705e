"""What is known of whether the machine is used, and since when. Sensors fill it in; the policy reads it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Signal:
    """What one sensor saw when it last looked.

    `busy` is None where it could not tell, which counts as busy. `last_used` is the newest time at which it knows of
    use, also where that is over; None where it knows of none.
    """

    name: str  # requests, streams, downloads, gpu, cpu, network, logins, kernels
    busy: bool | None
    reason: str  # one short sentence for a human: "GPU 0 worked 12 % of the last 20 s"
    at: datetime
    last_used: datetime | None = None
