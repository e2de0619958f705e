"""Who computes what in the next step. Pure bookkeeping: no llama.cpp, no clock, no I/O.

A step's batch takes every decoding sequence's newest token first, then a bounded slice of prefill, so a long
prompt never freezes those who are being answered. Prefill goes shortest first; waiting counts for a sequence,
so a long prompt does not starve.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from inference.sequence import Sequence, Slot

GRAIN = 32  # prefill slices are multiples of this where they can be, so batch shapes repeat
AGEING = 256.0  # tokens of remaining prompt that a second of waiting outweighs


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` tokens of a sequence, from `sequence.done` on; `last` if a token is sampled after them."""

    sequence: Sequence
    count: int
    last: bool


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many leading tokens two lists share."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def choose_slot(slots: Iterable[Slot], tokens: list[int]) -> Slot | None:
    """The free slot to use: that of the same conversation, else an empty one, else the longest unused.

    A slot belongs to the same conversation if these tokens go on from at least half of what it holds; a
    shared system prompt alone is no reason to throw another conversation's cache away.
    """
    free = [slot for slot in slots if slot.sequence is None]
    if not free:
        return None
    best = max(free, key=lambda slot: common_prefix(slot.held, tokens))
    if best.held and 2 * common_prefix(best.held, tokens) >= len(best.held):
        return best
    return min(free, key=lambda slot: (bool(slot.held), slot.used, slot.index))


class Scheduler:
    """Waiting sequences, and slots with the running ones."""

    def __init__(self, *, slots: int, batch: int) -> None:
        self.slots = [Slot(index) for index in range(slots)]
        self.waiting: list[Sequence] = []
        self._batch = batch

    @property
    def running(self) -> list[Sequence]:
        """In slot order: llama.cpp joins neighbours of ascending ids into one pass."""
        return [slot.sequence for slot in self.slots if slot.sequence]

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Gives slots to those who wait longest; returns them with `done` set to what the slot already holds."""
        admitted = []
        while self.waiting and (slot := choose_slot(self.slots, self.waiting[0].tokens)):
            sequence = self.waiting.pop(0)
            # the last token is always computed anew: the cache holds no logits
            sequence.done = min(common_prefix(slot.held, sequence.tokens), len(sequence.tokens) - 1)
            sequence.cached = min(sequence.done, sequence.prompt)
            sequence.slot, slot.sequence = slot, sequence
            admitted.append(sequence)
        return admitted

    def release(self, sequence: Sequence, now: float) -> None:
        """Frees the slot and leaves what it computed there for the conversation's next turn."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if slot := sequence.slot:
            slot.held, slot.used = sequence.tokens[: sequence.done], now
            slot.sequence = sequence.slot = None

    def plan(self, *, prefill: int, now: float) -> list[Piece]:
        """The next batch, in slot order. `prefill`: at most so many prompt tokens while others decode."""
        running = self.running
        pieces = {sequence.id: Piece(sequence, 1, last=True) for sequence in running if sequence.decoding}
        room = self._batch - len(pieces)
        budget = min(room, prefill) if pieces else room
        prompts = [sequence for sequence in running if not sequence.decoding]
        for sequence in sorted(prompts, key=lambda s: s.pending - AGEING * (now - s.arrived)):
            count = min(sequence.pending, budget)
            if count < sequence.pending and count > GRAIN:
                count -= count % GRAIN
            if count <= 0:
                break
            pieces[sequence.id] = Piece(sequence, count, last=count == sequence.pending)
            budget -= count
        return [pieces[sequence.id] for sequence in running if sequence.id in pieces]
