"""The instance's time as segments, and its correction by what DSW tells afterwards. Pure: knows no database."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from operator import attrgetter

# Running, as DSW sees it: what only we can tell apart. `unwatched`: it ran, and nobody saw whether it was used.
RUNNING = frozenset({"used", "idle", "warming", "unwatched"})
# `unknown`: nobody saw whether it ran.
STATES = RUNNING | {"starting", "saving", "stopping", "stopped", "unknown"}


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour takes. `source`: settings, specs (the DSW API's list) or learned; empty where no price is known."""

    spec: str = ""
    yuan_per_hour: float | None = None
    compute_hours_per_hour: float | None = None
    source: str = ""
    seen_at: datetime | None = None

    def same(self, other: "Price") -> bool:
        """Whenever it was seen."""
        return replace(self, seen_at=None) == replace(other, seen_at=None)


@dataclass(frozen=True, slots=True)
class Segment:
    """A span in which the instance was in one state at one price.

    `session`: DSW's number of the span from a start to the next stop. `rebuilt`: as DSW told it afterwards, not as
    it was seen.
    """

    instance: str
    state: str
    started_at: datetime
    ended_at: datetime
    session: int | None = None
    price: Price = Price()
    rebuilt: bool = False

    @property
    def minutes(self) -> float:
        return (self.ended_at - self.started_at) / timedelta(minutes=1)

    def within(self, start: datetime, end: datetime) -> "Segment | None":
        """The part of it that lies there, if there is one."""
        start, end = max(start, self.started_at), min(end, self.ended_at)
        return replace(self, started_at=start, ended_at=end) if start < end else None

    def like(self, other: "Segment") -> bool:
        """Whether it could go on as the other does, were it not for the time."""
        return (
            (self.instance, self.state, self.session, self.rebuilt)
            == (other.instance, other.state, other.session, other.rebuilt)
        ) and self.price.same(other.price)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lived:
    """A span of the instance's life as DSW tells it: one of STATES, `unwatched` for running; without an end so far."""

    session: int
    state: str
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """What DSW says of a span; nothing by default. `agreeing`: the states that stay as they were seen."""

    start: datetime
    end: datetime
    state: str = "unknown"
    session: int | None = None
    agreeing: frozenset[str] = STATES


def corrected(instance: str, known: Sequence[Segment], lived: Sequence[Lived], price: Price,
              now: datetime) -> list[Segment]:  # fmt: skip
    """An instance's segments, in order, put right by its life as DSW tells it.

    What DSW can't tell, whether the instance was used while it ran, stays as it was seen. What was missed is filled, at
    `price`; what DSW does not tell either becomes `unknown`. Doing it again changes nothing.
    """
    pieces = list(_pieces([one for one in lived if one.started_at < now], now))
    if not pieces:
        return list(known)
    ends = [segment.ended_at for segment in known]
    found: list[Segment] = []
    for piece in _without_holes(known, pieces):
        missed = Segment(instance, piece.state, piece.start, piece.end, piece.session, price, rebuilt=True)
        if piece.state == "unknown":
            missed = Segment(instance, piece.state, piece.start, piece.end)
        found += _parts(piece, missed, known[bisect_right(ends, piece.start) :])
    found += [one for one in known if one.started_at == one.ended_at >= found[-1].ended_at]  # the newest look
    return _joined(found)


def _pieces(lived: Sequence[Lived], now: datetime) -> Iterator[_Piece]:
    """In order: the states of a session follow each other, and from its end to the next one it was stopped.

    After the last one too, but there DSW may be behind: what was seen stays.
    """
    told: list[Lived] = sorted(lived, key=attrgetter("started_at"))
    for number, one in enumerate(told, 1):
        after = told[number] if number < len(told) else None
        following = after.started_at if after else now
        end = following
        if one.ended_at and (after is None or after.session != one.session):
            end = min(max(one.ended_at, one.started_at), following)
        if one.started_at < end:
            yield _Piece(one.started_at, end, one.state, one.session, _agreeing(one.state))
        if end < following and after:
            yield _Piece(end, following, "stopped", one.session, _agreeing("stopped"))
        elif end < following:
            yield _Piece(end, following, "stopped", None, STATES - {"unknown"})


def _agreeing(state: str) -> frozenset[str]:
    return RUNNING if state in RUNNING else STATES if state == "unknown" else frozenset({state})


def _without_holes(known: Sequence[Segment], pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """All time from the first moment to the last."""
    at = min(pieces[0].start, known[0].started_at) if known else pieces[0].start
    for piece in pieces:
        if at < piece.start:
            yield _Piece(at, piece.start)
        yield piece
        at = piece.end
    if known and at < known[-1].ended_at:
        yield _Piece(at, known[-1].ended_at)


def _parts(piece: _Piece, missed: Segment, known: Sequence[Segment]) -> Iterator[Segment]:
    """What is known of a span and agrees with DSW; between that, what was missed."""
    at = piece.start
    for segment in known:
        if segment.started_at >= piece.end:
            break
        part = segment.within(piece.start, piece.end) if segment.state in piece.agreeing else None
        if part is None:
            continue
        if hole := missed.within(at, part.started_at):
            yield hole
        yield part if piece.session is None else replace(part, session=piece.session)
        at = part.ended_at
    if hole := missed.within(at, piece.end):
        yield hole


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """The same with fewer segments."""
    found = list(segments[:1])
    for before, after in pairwise(segments):
        if before.like(after) and before.ended_at == after.started_at:
            found[-1] = replace(found[-1], ended_at=after.ended_at)
        else:
            found.append(after)
    return found
