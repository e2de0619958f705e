"""How long after a kill the next reply is there, and how much of that is the model's loading."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bench.torture.history import History, Life


@dataclass(frozen=True, slots=True)
class Recovery:
    """`seconds` from a kill to the first reply that was committed after it, less `model`: what its loading took."""

    seconds: float
    model: float


def recoveries(history: History) -> list[Recovery]:
    """One for each kill that was followed by a ready process and a reply before the next kill."""
    replies = sorted(message.created_at for message in history.messages if message.role == "assistant")
    found = []
    for earlier, later in _successions(history):
        place = bisect_right(replies, earlier)
        if place < len(replies) and replies[place] <= later.ended:
            model = later.model_seconds if history.gateways == 1 else 0.0  # another gateway has its model loaded
            found.append(Recovery(replies[place] - earlier - model, model))
    return found


def _successions(history: History) -> Iterator[tuple[float, Life]]:
    """(the time of a kill, the life after it), where that became ready."""
    for gateway in {life.gateway for life in history.lives}:
        lives = [life for life in history.lives if life.gateway == gateway]
        for one, following in pairwise(lives):
            if one.how != "SIGTERM" and following.ready is not None:
                yield one.ended, following
