"""What is broken, and when: the same seed makes the same plan."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.torture import failpoints

Kind = Literal["moment", "startup", "failpoint", "worker", "term", "term failpoint", "migration"]

# How a process ends, by how often.
ENDS: dict[Kind, int] = {
    "moment": 34, "startup": 10, "failpoint": 42, "worker": 6, "term": 4, "term failpoint": 2, "migration": 2,
}  # fmt: skip
TROUBLES = {"none": 50, "telegram": 24, "callbacks": 16, "disk": 4, "pause": 4, "long pause": 0.5}

STARTING = ((0.0, 1.0), (1.0, 2.5))  # seconds, each range as often
WORKING = ((0.0, 0.5), (0.5, 1.5), (1.5, 2.5))

# Points that a process passes once, if at all.
ONCE = (
    "take over", "delivery settle", "delivery retry", "delivery uncertain", "fail", "command", "release", "migration",
)  # fmt: skip
OF_TELEGRAM = (
    "command", "placeholder intent", "placeholder number", "send placeholder", "send message", "edit message", "poll",
    "fail", "delivery retry", "delivery uncertain",
)  # fmt: skip
BEFOREHAND = {"delivery settle": "post callback:after"}  # where the process before must have died

LONG = 17.0  # seconds: longer than the lease of a claim

TELEGRAM_FAULTS = ("server error", "drop before", "drop after", "retry after")
METHODS = ("sendMessage", "editMessageText", "getUpdates")


@dataclass(frozen=True, slots=True)
class Upset:
    """Something that goes wrong while the service runs, `at` seconds after it is ready, for `seconds`."""

    kind: str
    at: float
    seconds: float = 0.0
    methods: tuple[str, ...] = ()  # of Telegram that meet `faults`
    faults: tuple[str, ...] = ()
    pages: bool = False  # the disk has no room for pages of the database; else for nothing


@dataclass(frozen=True, slots=True)
class Round:
    """One process's life: what upsets it, and its end `after` seconds of being ready (of its start, in startups)."""

    end: Kind
    after: float
    failpoint: str = ""  # NAME#N
    upsets: tuple[Upset, ...] = ()
    patient: bool = False  # the upsets are over before its end begins

    @property
    def kills(self) -> int:
        """kill -9s that it counts for."""
        return {"worker": 2, "term": 0}.get(self.end, 1)


COMMAND = (Upset("command", 0.0),)


class Deck:
    """Cards in random order, each once before any comes again."""

    def __init__(self, cards: list[str], luck: random.Random) -> None:
        self._cards = cards
        self._luck = luck
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = self._luck.sample(self._cards, len(self._cards))
        return self._left.pop()


def rounds(seed: str, kills: int, *, postgres: bool = False, alone: bool = True,
           telegram: bool = True) -> Iterator[Round]:  # fmt: skip
    """As many as it takes for so many kills. `alone`: no other process uses the database; `telegram`: it polls."""
    luck = random.Random(seed)
    running = [point for point in failpoints.RUNNING if telegram or point.partition(":")[0] not in OF_TELEGRAM]
    decks = {
        "failpoint": Deck(running, luck),
        "term failpoint": Deck(failpoints.STOPPING, luck),
        "migration": Deck(failpoints.MIGRATING, luck),
    }
    troubles = TROUBLES | ({"database": 10} if postgres else {}) | ({} if alone else {"long pause": 2})
    ends = {end: share for end, share in ENDS.items() if alone or end != "migration"}
    done = 0
    while done < kills:
        (end,) = luck.choices(list(ends), list(ends.values()))
        after = luck.uniform(*luck.choice(STARTING if end == "startup" else WORKING))
        point = decks[end].draw() if end in decks else ""
        name = point.partition(":")[0]
        if name in BEFOREHAND:
            done += 1
            yield Round("failpoint", 0.0, f"{BEFOREHAND[name]}#1")
        upsets = _needed(name) or _upsets(luck, troubles)
        passage = luck.randint(1, 3) if point and name not in ONCE else 1
        patient = luck.random() < 0.5 or any(upset.kind == "long pause" for upset in upsets)
        one = Round(end, after, f"{point}#{passage}" if point else "", upsets, patient)
        done += one.kills
        yield one


def _needed(name: str) -> tuple[Upset, ...]:
    """What leads to a point that is not passed by itself."""
    fault = {"delivery retry": "retry after", "delivery uncertain": "drop after"}.get(name)
    if fault:
        faults = Upset("telegram", 0.0, methods=("sendMessage",), faults=(fault,) * 3)
        return (faults, Upset("command", 0.0))
    return {"fail": (Upset("hopeless", 0.0),), "command": COMMAND, "send message": COMMAND}.get(name, ())


def _upsets(luck: random.Random, troubles: dict[str, float]) -> tuple[Upset, ...]:
    (kind,) = luck.choices(list(troubles), list(troubles.values()))
    at = luck.uniform(0.0, 0.8)
    match kind:
        case "none":
            return ()
        case "telegram":
            faults = tuple(luck.choice(TELEGRAM_FAULTS) for _ in range(luck.randint(1, 3)))
            return (Upset(kind, at, methods=(luck.choice(METHODS),), faults=faults),)
        case "callbacks":
            return (Upset(kind, 0.0, seconds=luck.uniform(0.5, 2.0)),)
        case "disk":
            return (Upset(kind, at, luck.uniform(0.5, 2.5), pages=luck.random() < 0.5),)
        case "long pause":
            return (Upset(kind, at, LONG),)
    return (Upset(kind, at, luck.uniform(0.5, 2.5)),)
