"""Conversations' keys and values: brought where a sequence computes, and kept when nobody talks.

What a conversation computed stays in its stream while there is room, then in a parked stream, in host memory and
on disk. All of it is found by tokens alone, so it can only ever give back what prefill would have computed.
"""

import time

import numpy as np

from inference.kvstore import Found, KvStore
from inference.llama import Model
from inference.pace import Pace
from inference.placement import Placement, place
from inference.protocol import CacheTier
from inference.sampling import WIDE
from inference.scheduler import Scheduler
from inference.sequence import Sequence, Stream, as_tokens, common_prefix

KEEP = 64  # tokens below which computing again is as quick as keeping
KEEP_AFTER = 5.0  # seconds without a word before a conversation is kept outside of its stream
WORTH = 0.2  # of the time to compute it again that an eviction may take
AHEAD = 16  # tokens that are not worth computing ahead


class Cache:
    """The streams of a model, and the store below them. For the model's thread alone."""

    def __init__(self, model: Model, scheduler: Scheduler, store: KvStore, pace: Pace) -> None:
        self._model = model
        self._scheduler = scheduler
        self._store = store
        self._pace = pace

    def admit(self, sequence: Sequence, now: float) -> Sequence | None:
        """Gives a waiting sequence the slot from which its first token comes soonest; one must be free.

        Returns the background sequence that had to make room for it, if any.
        """
        self._pace.disk = self._store.disk_rate
        found = self._store.find(sequence.begun)
        scheduler = self._scheduler
        costs, compact = self._pace.costs, scheduler.shape.fill
        placement = place(sequence, scheduler.streams, len(scheduler.slots), found, costs, compact=compact)
        stream, interrupted = placement.stream, placement.stream.sequence
        if interrupted:
            scheduler.release(interrupted, now)
        shared, sequence.tier = self._bring(placement)
        self._begin(sequence, stream, shared, now)
        return interrupted

    def prepare(self, sequence: Sequence, now: float) -> bool:
        """Lets a background sequence begin in the free slot of its conversation, if there is something to gain."""
        free = (stream for stream in self._scheduler.slots if not stream.sequence)
        stream = next((stream for stream in free if np.array_equal(stream.held, sequence.after)), None)
        shared = common_prefix(stream.held, sequence.begun) if stream else 0
        if not stream or len(sequence.tokens) - shared < AHEAD:
            return False
        self._begin(sequence, stream, shared, now)
        return True

    def tend(self, now: float, *, idle: bool) -> float | None:
        """Keeps one conversation that has been quiet for a while; seconds until the next is due, if any."""
        if not idle:
            return None
        quiet = [stream for stream in self._scheduler.streams if self._unkept(stream)]
        oldest = min(quiet, key=lambda stream: stream.used, default=None)
        if not oldest:
            return None
        if now - oldest.used >= KEEP_AFTER:
            self._keep(oldest)
            return 0.0
        return oldest.used + KEEP_AFTER - now

    def close(self, timeout: float) -> None:
        """Keeps what there is time to keep, `timeout` seconds, newest first, and lets go of the store."""
        end = time.monotonic() + timeout
        for stream in sorted(self._scheduler.streams, key=lambda stream: -stream.used):
            if self._unkept(stream) and time.monotonic() < end:
                self._keep(stream)
        self._store.flush(max(0.0, end - time.monotonic()))
        self._store.close()

    def clear_junk(self, stream: Stream) -> None:
        """Forgets the rows of nothing that filled gaps there."""
        if stream.junk:
            self._model.truncate(stream.index, stream.length)
            stream.junk = 0

    def _begin(self, sequence: Sequence, stream: Stream, shared: int, now: float) -> None:
        self._scheduler.admit(sequence, stream, shared, now)
        self._model.truncate(stream.index, sequence.done)
        stream.junk = 0
        self._model.widen(stream.index, wide=sequence.choice.candidates == WIDE)

    def _bring(self, placement: Placement) -> tuple[int, CacheTier]:
        """Makes the stream hold what the placement promises: (tokens shared, where they came from)."""
        target = placement.stream
        if not placement.home:
            self._evict(target, placement.source)
        match placement.source:
            case None:
                return placement.shared, "stream" if placement.shared else "none"
            case Stream() as source:
                return self._copy(source, target, placement), "stream"
            case Found() as found:
                return (found.shared, found.tier) if self._restore(found, target) else (0, "none")

    def _copy(self, source: Stream, target: Stream, placement: Placement) -> int:
        self._model.copy(source.index, target.index)
        if placement.own and not source.sequence:
            self._model.truncate(source.index, 0)
            source.held, source.stored = as_tokens([]), False
        return placement.shared

    def _restore(self, found: Found, target: Stream) -> bool:
        state = self._store.load(found)
        if state is None:
            return False
        began = time.monotonic()
        if not self._model.restore(target.index, state, found.length):
            return False
        self._pace.host.note(state.size / max(time.monotonic() - began, 1e-6))
        return True

    def _evict(self, stream: Stream, source: Stream | Found | None) -> None:
        """Another conversation needs the stream: what it holds goes to an unused stream, else to the store."""
        slots, parked = self._scheduler.slots, self._scheduler.streams[len(self._scheduler.slots) :]
        empty = [other for other in reversed(slots) if not other.sequence and not other.length and other is not stream]
        others = [other for other in [*parked, *(empty if self._model.gpu else [])] if other is not source]
        if stream.length >= KEEP and others:
            other = min(others, key=lambda other: (other.length > 0, other.used))
            if self._unkept(other):
                self._keep(other)
            self._model.copy(stream.index, other.index)
            other.held, other.used, other.stored, other.junk = stream.held, stream.used, stream.stored, stream.junk
        elif self._unkept(stream) and self._pays(stream):
            self._keep(stream)

    def _pays(self, stream: Stream) -> bool:
        """Whether keeping it now, while others wait, costs little against computing it again."""
        costs, size = self._pace.costs, stream.length * self._model.plan.kv_bytes
        return size / costs.host < WORTH * stream.length / costs.prefill

    def _unkept(self, stream: Stream) -> bool:
        return not stream.sequence and not stream.stored and stream.length >= KEEP

    def _keep(self, stream: Stream) -> None:
        """Puts a snapshot into the store."""
        if not self._store.holds(stream.held):
            self.clear_junk(stream)
            self._store.put(stream.held, self._model.snapshot(stream.index))
            self._store.drop_prefixes(stream.held)
        stream.stored = True
