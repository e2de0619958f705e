"""The loop of the thread that owns the model: one iteration computes one batch for all who are being answered."""

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from inference.llama import Model, usable_threads
from inference.protocol import Chunk, FinishReason, Step
from inference.scheduler import GRAIN, Piece, Scheduler
from inference.sequence import Sequence

TARGET_GAP = 0.15  # seconds that prefill may put between two tokens of those who are being answered


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Ends a sequence whose asker has gone."""

    id: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token that has not become text yet."""

    sequence: Sequence
    token: int
    finish: FinishReason | None


class PrefillPace:
    """How many prompt tokens a step may take beside decoding, from the rate measured so far."""

    def __init__(self) -> None:
        self._rate = 0.0  # tokens a second

    @property
    def budget(self) -> int:
        return max(GRAIN, int(self._rate * TARGET_GAP) // GRAIN * GRAIN)

    def note(self, tokens: int, seconds: float) -> None:
        rate = tokens / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate


class StepLoop:
    """`submit` and `cancel` may be called from any thread; `emit` is called from the loop's own."""

    def __init__(self, model: Model, emit: Callable[[Step], None]) -> None:
        self._model = model
        self._emit = emit
        self._commands: queue.SimpleQueue[Sequence | Cancelled] = queue.SimpleQueue()
        self._scheduler = Scheduler(slots=model.config.slots, batch=model.config.batch)
        self._live: dict[int, Sequence] = {}
        self._sampled: list[Sampled] = []
        self._pace = PrefillPace()
        self._pool = ThreadPoolExecutor(min(16, usable_threads()), thread_name_prefix="sampling")
        self.steps = 0

    @property
    def active(self) -> int:
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        return len(self._scheduler.waiting) + self._commands.qsize()

    def submit(self, sequence: Sequence) -> None:
        self._commands.put(sequence)

    def cancel(self, sequence_id: int) -> None:
        self._commands.put(Cancelled(sequence_id))

    def run(self) -> None:
        """Works for ever."""
        while True:
            self.advance()

    def advance(self) -> None:
        """One step; waits for something to do first."""
        self._drain()
        for sequence in self._scheduler.admit():
            assert sequence.slot
            self._model.truncate(sequence.slot.index, sequence.done)
        if pieces := self._scheduler.plan(prefill=self._pace.budget, now=time.monotonic()):
            self._step(pieces)

    def _drain(self) -> None:
        """Takes the commands that have come; waits for one where there is nothing else to do."""
        while not self._live or not self._commands.empty():
            match self._commands.get():
                case Cancelled(sequence_id):
                    if sequence := self._live.get(sequence_id):
                        self._end(sequence)
                case sequence:
                    self._live[sequence.id] = sequence
                    self._scheduler.submit(sequence)

    def _step(self, pieces: list[Piece]) -> None:
        started = time.monotonic()
        rows = [(piece.sequence, self._add(piece)) for piece in pieces]
        self._model.decode()
        for piece in pieces:
            piece.sequence.done += piece.count
        if self._model.gpu:
            self._speak()  # the last step's text, while the GPU computes this one
        self._sample([row for row, piece in zip(rows, pieces, strict=True) if piece.last])
        prefilled = sum(piece.count for piece in pieces if piece.count > 1)
        if prefilled >= GRAIN:
            self._pace.note(prefilled, time.monotonic() - started)
        if not self._model.gpu or not self._scheduler.running:
            self._speak()
        self.steps += 1

    def _add(self, piece: Piece) -> int:
        sequence = piece.sequence
        assert sequence.slot
        tokens = sequence.tokens[sequence.done : sequence.done + piece.count]
        return self._model.add(sequence.slot.index, tokens, sequence.done, last=piece.last)

    def _sample(self, rows: list[tuple[Sequence, int]]) -> None:
        """Draws each sequence's next token; those that end give their slot back at once."""
        self._model.synchronize()
        rows = [(sequence, row) for sequence, row in rows if sequence.slot]  # _speak may have ended some
        if len(rows) == 1:
            tokens = [rows[0][0].sampler.sample(rows[0][1])]
        else:
            tokens = list(self._pool.map(lambda item: item[0].sampler.sample(item[1]), rows))
        for (sequence, _), token in zip(rows, tokens, strict=True):
            sequence.tokens.append(token)
            ended = self._model.vocabulary.ends(token)
            finish: FinishReason | None = "stop" if ended else None
            if not ended and len(sequence.tokens) >= sequence.limit:
                finish = "length"
            self._sampled.append(Sampled(sequence, token, finish))
            if finish:
                self._scheduler.release(sequence, time.monotonic())

    def _speak(self) -> None:
        """Turns the sampled tokens into text and sends what they gave, one frame for all."""
        sampled, self._sampled = self._sampled, []
        chunks = tuple(self._chunk(item) for item in sampled if item.sequence.id in self._live)
        if chunks:
            self._emit(Step(chunks))

    def _chunk(self, item: Sampled) -> Chunk:
        sequence, finish = item.sequence, item.finish
        reasoning, text = sequence.text.feed(self._model.vocabulary.piece(item.token))
        if sequence.text.stopped:
            finish = "stop"
        if finish:
            self._end(sequence)
            last_reasoning, last = sequence.text.flush()
            reasoning, text = reasoning + last_reasoning, text + last
        usage = sequence.usage if finish else None
        return Chunk(sequence.id, (item.token,), text, reasoning, finish, usage)

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.release(sequence, time.monotonic())
        del self._live[sequence.id]
        sequence.sampler.free()
