"""Who computes what in the next step. Pure bookkeeping: no llama.cpp, no clock, no I/O.

A step is some passes of prefill, bounded so that they never freeze those who are being answered, and then one
batch with a row for everybody who decodes. The two are kept apart because llama.cpp computes them apart anyway:
rows join one pass only where their streams are neighbours and give equally many tokens each.
"""

from collections import Counter
from dataclasses import dataclass

from inference.sequence import Sequence, Stream, as_tokens

GRAIN = 32  # the least prefill in a step, and what its slices are multiples of, so that shapes repeat
ALIKE = 16  # prompts whose lengths differ by less than this part are computed together
AGEING = 256.0  # tokens of remaining prompt that a second of waiting outweighs
BLOCK = 8  # what the first and last row's streams are rounded to, so that the shape of a batch stays for a while
PATIENCE = 2.0  # seconds that a client waits before another's surplus answer makes room


@dataclass(frozen=True, slots=True)
class Shape:
    """What a batch costs on this machine."""

    batch: int = 512  # tokens a pass has
    most: int = 640  # and may have, where that completes prompts
    nearly: int = 0  # tokens of a prompt that join the decoding batch one by one, sooner than take a pass of their own
    fill: bool = False  # whether a row of nothing is cheaper than a second pass
    overhead: int = 8  # tokens of prefill that the start of a pass costs as much as
    drafters: int = 1  # sequences up to which guessing ahead pays


# a GPU computes the prompts of four streams in one pass a third faster than one after the other
GPU_SHAPE = Shape(batch=2048, most=2560, nearly=4, fill=True, overhead=64, drafters=4)
CPU_SHAPE = Shape()


@dataclass(frozen=True, slots=True)
class Piece:
    """The next `count` prompt tokens of a sequence."""

    sequence: Sequence
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence's newest token with its draft after it; a gap's filler where there is no sequence."""

    stream: Stream
    sequence: Sequence | None
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """`passes` go to the model one by one, then `rows` as one batch, in the order of their streams."""

    passes: tuple[tuple[Piece, ...], ...]
    rows: tuple[Row, ...]


class Scheduler:
    """Waiting sequences, and the streams with the running ones."""

    def __init__(self, *, slots: int, parked: int = 0, shape: Shape | None = None) -> None:
        self.streams = [Stream(index) for index in range(slots + parked)]
        self.slots = self.streams[:slots]
        self.waiting: list[Sequence] = []
        self.shape = shape or Shape()

    @property
    def running(self) -> list[Sequence]:
        return [stream.sequence for stream in self.slots if stream.sequence]

    @property
    def answering(self) -> int:
        """Sequences that somebody waits for."""
        return sum(stream.busy for stream in self.slots)

    @property
    def free(self) -> int:
        return len(self.slots) - self.answering

    @property
    def backlog(self) -> int:
        """Tokens to compute before all who wait, and have a slot or will get a free one, are answered."""
        admitted = sum(s.prefill + self.shape.overhead for s in self.running if s.prefill > 0 and not s.background)
        return admitted + sum(s.prefill + self.shape.overhead for s in self.waiting[: self.free])

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def next(self) -> Sequence | None:
        """Who is admitted next, if a slot is free: of the client with the fewest running answers, the oldest."""
        if not self.waiting or all(stream.busy for stream in self.slots):
            return None
        load = Counter(s.request.client for s in self.running if not s.background)
        return min(self.waiting, key=lambda s: (load[s.request.client], s.arrived))

    def admit(self, sequence: Sequence, stream: Stream, shared: int, now: float) -> None:
        """Gives a sequence a stream that holds `shared` of its leading tokens."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        # the last token is always computed anew: the cache holds no logits
        sequence.done = min(shared, len(sequence.tokens) - (not sequence.background))
        if not sequence.admitted:
            sequence.cached, sequence.admitted = min(sequence.done, sequence.prompt), now
        sequence.stream, stream.sequence, stream.stored = stream, sequence, False

    def release(self, sequence: Sequence, now: float) -> None:
        """Frees the stream and leaves what was computed there for the conversation's next turn."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if stream := sequence.stream:
            stream.held, stream.used = as_tokens(sequence.tokens[: sequence.done]), now
            stream.sequence = sequence.stream = None

    def preempt(self, now: float) -> Sequence | None:
        """Takes the newest answer of a client that has several off its stream, if another client waits for its
        first for too long. It goes back to the queue and goes on from its tokens when its turn comes."""
        if not self.waiting or self.next():
            return None
        load = Counter(sequence.request.client for sequence in self.running)
        starved = any(not load[s.request.client] and now - s.arrived > PATIENCE for s in self.waiting)
        greedy = [s for s in self.running if load[s.request.client] > 1 and s.decoding and now - s.admitted > PATIENCE]
        if not starved or not greedy:
            return None
        victim = max(greedy, key=lambda s: (load[s.request.client], s.arrived))
        self.release(victim, now)
        victim.begun = as_tokens(victim.tokens)
        self.waiting.append(victim)
        return victim

    def plan(self, *, budget: int, now: float) -> StepPlan:
        """The next step. `budget`: prompt tokens in it; one prompt's at least are taken where they fit a pass."""
        passes: list[tuple[Piece, ...]] = []
        idle = not self.answering  # only then is there time for what nobody waits for yet
        left = {s.id: s for s in self.running if s.prefill > self._nearly(s) and (idle or not s.background)}
        while left:
            first = min(left.values(), key=lambda s: _order(s, now))
            if passes and budget * 5 // 4 < first.prefill:  # a slice would break the row of neighbours of one length
                break
            group = self._group(first, left, max(budget, GRAIN))
            passes.append(group)
            budget -= sum(piece.count for piece in group) + self.shape.overhead
            for piece in group:
                del left[piece.sequence.id]
        return StepPlan(tuple(passes), self._rows(passes))

    def _group(self, first: Sequence, left: dict[int, Sequence], budget: int) -> tuple[Piece, ...]:
        """A piece of `first`, and equally large ones of the neighbours who have about as much to compute."""
        budget = min(budget, self.shape.batch)
        count = slice_of(first.prefill, budget, self.shape.most)
        room = min(budget * 5 // 4, self.shape.most)
        assert first.stream
        members = [first]
        for direction in (1, -1):
            index = first.stream.index + direction
            while (len(members) + 1) * count <= room and 0 <= index < len(self.slots):
                neighbour = self.slots[index].sequence
                shortest = count - min(self.shape.nearly, count // ALIKE)
                if not neighbour or neighbour.id not in left or not shortest <= neighbour.prefill <= 2 * count:
                    break
                count = min(count, neighbour.prefill)
                members.append(neighbour)
                index += direction
        members.sort(key=lambda s: s.stream.index if s.stream else 0)
        return tuple(Piece(member, count) for member in members)

    def _nearly(self, sequence: Sequence) -> int:
        return 0 if sequence.background else self.shape.nearly

    def _rows(self, passes: list[tuple[Piece, ...]]) -> tuple[Row, ...]:
        """A row for each sequence that decodes, or will after the passes. Gaps are filled where that pays."""
        left = {p.sequence.id: p.sequence.prefill - p.count for pieces in passes for p in pieces}
        speaks = [s for s in self.running if not s.background and left.get(s.id, s.prefill) <= self._nearly(s)]
        indices = [sequence.stream.index for sequence in speaks if sequence.stream]
        if self.shape.fill and indices:
            indices = whole_range(indices[0], indices[-1], len(self.slots))
        return tuple(Row(self.slots[index], self.slots[index].sequence) for index in indices)


def _order(sequence: Sequence, now: float) -> tuple[bool, int, int]:
    """Prefill's order: background last, then by what remains, in coarse classes, then neighbours together."""
    remains = sequence.prefill - AGEING * (now - sequence.arrived)
    return sequence.background, round(remains / AGEING), sequence.stream.index if sequence.stream else 0


def whole_range(first: int, last: int, slots: int) -> list[int]:
    """All streams from the first row's to the last one's. A large range ends at multiples of BLOCK."""
    if last - first >= BLOCK:
        first, last = first - first % BLOCK, min(slots - 1, last - last % BLOCK + BLOCK - 1)
    return list(range(first, last + 1))


def slice_of(prefill: int, budget: int, most: int) -> int:
    """How much of a prompt a pass takes: all of it where little would remain."""
    if prefill <= min(most, budget * 5 // 4):
        return prefill
    return max(GRAIN, budget - budget % GRAIN)
