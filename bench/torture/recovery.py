"""How long after a kill the next reply is there, and how much of that is the model's loading."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bench.torture.history import History

HOLDS_UP = ("pause", "long pause", "disk", "database")  # troubles that no reply can come through


@dataclass(frozen=True, slots=True)
class Recovery:
    """`seconds` from a kill to the first reply that was committed after it, less `model`: what its loading took, or 0
    where another gateway was there all the time.

    `held_up`: something else was broken meanwhile, on purpose, that no reply could come through.
    """

    seconds: float
    model: float
    held_up: bool


def recoveries(history: History) -> list[Recovery]:
    """One for each kill, of a service or of a model's process, that a reply followed before the next kill."""
    replies = sorted(message.created_at for message in history.messages if message.role == "assistant")
    found = []
    for gateway, killed, until, model in (*_restarts(history), *_reloads(history)):
        place = bisect_right(replies, killed)
        if place < len(replies) and (reply := replies[place]) <= until:
            load = 0.0 if _another(history, gateway, killed, reply) else model
            found.append(Recovery(reply - killed - load, load, _held_up(history, killed, reply)))
    return found


def _another(history: History, gateway: str, killed: float, reply: float) -> bool:
    """Whether another gateway, with its model, was there from the kill to the reply."""
    return any(
        life.gateway != gateway and life.ready is not None and life.ready <= killed and reply <= life.ended
        for life in history.lives
    )


def _restarts(history: History) -> Iterator[tuple[str, float, float, float]]:
    """(gateway, the time of a kill, the end of the life after it, its model's load), where that became ready."""
    for gateway in {life.gateway for life in history.lives}:
        lives = [life for life in history.lives if life.gateway == gateway]
        for one, following in pairwise(lives):
            if one.how != "SIGTERM" and following.ready is not None:
                yield gateway, one.ended, following.ended, following.model_seconds


def _reloads(history: History) -> Iterator[tuple[str, float, float, float]]:
    """The same where the model's process was killed and another was loaded."""
    for killed in history.worker_kills:
        for life in history.lives:
            if life.ready and life.ready < killed < life.ended:
                for loaded, seconds in life.reloads:
                    if loaded > killed:
                        yield life.gateway, killed, life.ended, seconds
                        break


def _held_up(history: History, killed: float, reply: float) -> bool:
    return any(
        trouble.kind in HOLDS_UP and trouble.began < reply and trouble.ended > killed for trouble in history.troubles
    )
