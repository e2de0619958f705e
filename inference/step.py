"""The loop of the thread that owns the model: one iteration computes one step for all who are being answered."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from inference import speculation
from inference.cache import Cache
from inference.llama import DRAFT, Model
from inference.pace import Pace
from inference.protocol import Chunk, FinishReason, Step
from inference.sampling import NARROW, WIDE, draw, penalised, uniforms
from inference.scheduler import Piece, Row, Scheduler, StepPlan
from inference.sequence import Sequence, Stream, as_tokens

JUNK = 48  # cells that fillers may take in a stream before they are cleared
ADMITTING = 0.02  # seconds a step, begun ones aside, while others are answered: to bring a cache takes time
AHEAD_EVERY = 0.02  # seconds between two conversations that are prepared for their next turn
FLUSH = 2.0  # seconds that a stop may take to put conversations on disk


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Ends a sequence whose asker has gone."""

    id: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Ends the loop once the conversations are kept."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A sequence in the batch that is being computed: its stream, what was guessed, and its first output."""

    sequence: Sequence
    stream: Stream
    draft: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens that have not become text yet."""

    sequence: Sequence
    tokens: list[int]
    finish: FinishReason | None


class StepLoop:
    """`submit`, `cancel` and `stop` may be called from any thread; the callbacks come from the loop's own."""

    def __init__(self, model: Model, cache: Cache, scheduler: Scheduler, pace: Pace, *,
                 emit: Callable[[Step], None], finished: Callable[[Sequence], None]) -> None:  # fmt: skip
        """`finished`: told of the newest answers that came to their end by themselves, once nobody is answered."""
        self._model = model
        self._cache = cache
        self._scheduler = scheduler
        self._pace = pace
        self._emit = emit
        self._finished = finished
        self._commands: queue.SimpleQueue[Sequence | Cancelled | Stopped] = queue.SimpleQueue()
        self._live: dict[int, Sequence] = {}
        self._sampled: list[Sampled] = []
        self._ended: deque[Sequence] = deque(maxlen=len(scheduler.slots))
        self.stopped = threading.Event()
        self.steps = 0

    def submit(self, sequence: Sequence) -> None:
        self._commands.put(sequence)

    def cancel(self, sequence_id: int) -> None:
        self._commands.put(Cancelled(sequence_id))

    def stop(self) -> None:
        self._commands.put(Stopped())

    @property
    def active(self) -> int:
        return self._scheduler.answering

    @property
    def waiting(self) -> int:
        return len(self._scheduler.waiting) + self._commands.qsize()

    def run(self) -> None:
        """Works until it is stopped."""
        while not self.stopped.is_set():
            self.advance()

    def advance(self) -> None:
        """One step; waits for something to do first."""
        self._drain()
        now = time.monotonic()
        self._scheduler.preempt(now)
        others = self._scheduler.answering
        while sequence := self._scheduler.next():
            if interrupted := self._cache.admit(sequence, now):
                self._live.pop(interrupted.id, None)
            if others and time.monotonic() - now > ADMITTING:
                break
        scheduler = self._scheduler
        begun = sum(s.prefill > 0 and not s.background for s in scheduler.running)
        waiting = begun + min(len(scheduler.waiting), scheduler.free)
        decoding = scheduler.answering - begun
        budget = self._pace.budget(
            waiting=waiting, decoding=decoding, backlog=scheduler.backlog, spent=time.monotonic() - now
        )
        plan = self._scheduler.plan(budget=budget, now=now)
        if plan.passes or plan.rows:
            self._step(plan, now)

    def _step(self, plan: StepPlan, started: float) -> None:
        for pieces in plan.passes:
            self._prefill(pieces)
        if plan.rows:
            voices = self._decode(speculation.drafted(plan.rows, self._scheduler.shape.drafters, DRAFT))
            if self._model.gpu:
                self._speak()  # the last step's text, while the GPU computes this one
            self._sample(voices)
        prefill = sum(sum(p.count for p in pieces) + self._scheduler.shape.overhead for pieces in plan.passes)
        self._pace.note_step(prefill=prefill, rows=len(plan.rows), seconds=time.monotonic() - started)
        if not self._model.gpu or not self._scheduler.answering:
            self._speak()
        self._retire()
        self.steps += 1

    def _drain(self) -> None:
        """Takes the commands that have come. With nothing to compute it keeps conversations, then waits."""
        while True:
            idle = not self._scheduler.running and not self._scheduler.waiting
            timeout = self._cache.tend(time.monotonic(), idle=idle)
            if idle and self._ended:  # one by one: whoever comes now must not queue behind all of them
                self._finished(self._ended.popleft())
                timeout = AHEAD_EVERY
            try:
                command = self._commands.get(block=idle, timeout=timeout)
            except queue.Empty:
                if idle:
                    continue
                return
            self._obey(command)
            if isinstance(command, Stopped):
                return

    def _obey(self, command: Sequence | Cancelled | Stopped) -> None:
        match command:
            case Cancelled(sequence_id):
                if sequence := self._live.get(sequence_id):
                    self._end(sequence)
            case Stopped():
                self._cache.close(FLUSH)
                self.stopped.set()
            case Sequence(background=True):
                if self._cache.prepare(command, time.monotonic()):
                    self._live[command.id] = command
            case Sequence():
                self._live[command.id] = command
                self._scheduler.submit(command)

    def _prefill(self, pieces: tuple[Piece, ...]) -> None:
        for piece in pieces:
            sequence = piece.sequence
            assert sequence.stream
            self._cache.clear_junk(sequence.stream)
            tokens = sequence.tokens[sequence.done : sequence.done + piece.count]
            self._model.add(sequence.stream.index, tokens, sequence.done)
            sequence.done += piece.count
        self._model.decode()

    def _decode(self, rows: tuple[Row, ...]) -> list[Voice]:
        voices: list[Voice] = []
        streams: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        for row in rows:
            stream, sequence = row.stream, row.sequence
            if sequence and sequence.pending:
                self._cache.clear_junk(stream)
                new, position = [sequence.tokens[sequence.done], *row.draft], sequence.done
                if sequence.decoding:
                    voices.append(Voice(sequence, stream, row.draft, len(tokens)))
                else:
                    sequence.done += 1  # a prompt's token fills the gap
            else:  # a row of nothing, so that the batch is one pass; with a candidate too, so that the shape stays
                new, position = [0], self._room_for_junk(stream)
            streams += [stream.index] * len(new)
            tokens += new
            positions += range(position, position + len(new))
        self._model.add_rows(streams, tokens, positions)
        self._model.decode()
        return voices

    def _room_for_junk(self, stream: Stream) -> int:
        if stream.junk >= JUNK:
            self._cache.clear_junk(stream)
        stream.junk += 1
        return stream.length + stream.junk - 1

    def _sample(self, voices: list[Voice]) -> None:
        """Draws each sequence's next tokens; those that end give their stream back at once."""
        self._model.synchronize()
        for voice in voices:
            if not voice.sequence.stream:  # a stop string ended it meanwhile
                voice.stream.junk += 1 + len(voice.draft)
        voices = [voice for voice in voices if voice.sequence.stream]
        for count in (NARROW, WIDE):
            some = [voice for voice in voices if voice.sequence.choice.candidates == count]
            if some:
                for voice, tokens in zip(some, self._draw(some, count), strict=True):
                    self._accept(voice, tokens)

    def _draw(self, voices: list[Voice], count: int) -> list[list[int]]:
        """A token for each voice, and for each place of its draft."""
        places = [(voice, i) for voice in voices for i in range(1 + len(voice.draft))]
        logits, ids = self._model.candidates([voice.output + i for voice, i in places], count)
        for index, (voice, i) in enumerate(places):
            sequence = voice.sequence
            if sequence.choice.penalises:
                said = as_tokens([*sequence.tokens[sequence.prompt :], *voice.draft[:i]])
                logits[index] = penalised(logits[index], ids[index], sequence.choice, said)
        positions = [len(voice.sequence.tokens) + i for voice, i in places]
        chances = uniforms([voice.sequence.choice.seed for voice, _ in places], positions)
        drawn = iter(draw(logits, ids, [voice.sequence.choice for voice, _ in places], chances))
        return [[next(drawn) for _ in range(1 + len(voice.draft))] for voice in voices]

    def _accept(self, voice: Voice, tokens: list[int]) -> None:
        """Takes what was drawn as far as the draft before it was right."""
        sequence = voice.sequence
        right = speculation.agreed(voice.draft, tokens) if voice.draft else 0
        new, finish = self._until_the_end(sequence, tokens[: right + 1])
        sequence.done += len(new)
        sequence.tokens += new
        if len(new) <= len(voice.draft):
            self._model.truncate(voice.stream.index, sequence.done)
        if voice.draft:
            sequence.drafting.note(len(voice.draft), right, len(sequence.tokens))
        self._sampled.append(Sampled(sequence, new, finish))
        if finish:
            self._scheduler.release(sequence, time.monotonic())

    def _until_the_end(self, sequence: Sequence, tokens: list[int]) -> tuple[list[int], FinishReason | None]:
        room = sequence.limit - len(sequence.tokens)
        for index, token in enumerate(tokens[:room]):
            if self._model.vocabulary.ends(token):
                return tokens[: index + 1], "stop"
        return tokens[:room], "length" if room <= len(tokens) else None

    def _speak(self) -> None:
        """Turns the sampled tokens into text and sends what they gave, one frame for all."""
        sampled, self._sampled = self._sampled, []
        chunks = tuple(self._chunk(item) for item in sampled if item.sequence.id in self._live)
        if chunks:
            self._emit(Step(chunks))

    def _chunk(self, item: Sampled) -> Chunk:
        sequence, finish = item.sequence, item.finish
        reasoning, text = "", ""
        for token in item.tokens:
            more_reasoning, more = sequence.text.feed(self._model.vocabulary.piece(token))
            reasoning, text = reasoning + more_reasoning, text + more
        if sequence.text.stopped:
            finish = "stop"
        if finish:
            last_reasoning, last = sequence.text.flush()
            reasoning, text = reasoning + last_reasoning, text + last
        sequence.said.append(text)
        if finish:
            self._end(sequence)
            self._ended.append(sequence)
        return Chunk(sequence.id, tuple(item.tokens), text, reasoning, finish, sequence.usage if finish else None)

    def _retire(self) -> None:
        """Background sequences end when all of them is computed."""
        for sequence in [s for s in self._scheduler.running if s.background and not s.pending]:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.release(sequence, time.monotonic())
        self._live.pop(sequence.id, None)
