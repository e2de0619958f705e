"""Conversations' KV on the real model: kept, moved, restored, shared, and never anybody else's."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from inference import protocol as p
from inference import worker
from inference.llama import Model
from inference.scheduler import CPU_SHAPE, GPU_SHAPE, Shape
from inference.sizing import Plan
from tests.integration.reference import Reference

GREEDY = p.Sampling(temperature=0, frequency_penalty=0)
SLOTS = 3


@dataclass
class Desk:
    """A worker without its socket: what it says is kept by request."""

    worker: worker.Worker
    model: Model
    thread: threading.Thread
    chunks: dict[int, list[p.Chunk]] = field(default_factory=dict)

    def ask(self, *requests: p.Request) -> list[p.Chunk]:
        """All at once; each answer as one chunk."""
        first = 1 + max(self.chunks, default=0)
        ids = range(first, first + len(requests))
        for id_, request in zip(ids, requests, strict=True):
            self.chunks[id_] = []
            self.worker.handle(p.Submit(id_, request))
        return [self.answer(id_) for id_ in ids]

    def answer(self, id_: int) -> p.Chunk:
        end = time.monotonic() + 60
        while not (self.chunks[id_] and self.chunks[id_][-1].finish):
            assert self.thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.005)
        whole = p.Chunk(id_)
        for chunk in self.chunks[id_]:
            whole = whole.followed_by(chunk)
        return whole

    def settle(self) -> None:
        """Waits until nothing is computed any more, the preparation of next turns included."""
        steps = -1
        while steps != self.worker.loop.steps:
            steps = self.worker.loop.steps
            time.sleep(0.15)

    def stop(self) -> None:
        self.worker.loop.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.model.close()


def start(gguf: Path, folder: Path | None, *, shape: Shape = CPU_SHAPE, parked: int = 0, context: int = 1024) -> Desk:
    config = p.EngineConfig("small", str(gguf), "", kv_dir=str(folder) if folder else "")
    model = Model(config, Plan(context, SLOTS, parked, "f16", 1 << 28, 0.0, ""), lambda _: None)
    chunks: dict[int, list[p.Chunk]] = {}

    def send(report: p.Report) -> None:
        if isinstance(report, p.Step):
            for chunk in report.chunks:
                chunks[chunk.id].append(chunk)

    running = worker.Worker(model, send, lambda function, *args: function(*args))
    running.loop._scheduler.shape = shape
    thread = threading.Thread(target=running.loop.run, daemon=True)
    thread.start()
    return Desk(running, model, thread, chunks)


@pytest.fixture(params=["cpu", "gpu", "gpu with parked streams"])
def desk(request: pytest.FixtureRequest, small: Path, tmp_path: Path) -> Iterator[Desk]:
    """The bookkeeping of both kinds of machine; what is computed on is a CPU here."""
    shape, parked = (CPU_SHAPE, 0) if request.param == "cpu" else (GPU_SHAPE, 4 if "parked" in request.param else 0)
    one = start(small, tmp_path / "kv", shape=shape, parked=parked)
    yield one
    one.stop()


def says(*texts: str) -> tuple[p.ChatMessage, ...]:
    return tuple(p.ChatMessage(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


def opening(number: int) -> str:
    return f"My name is Nr {number} and my secret is {number * 7919}. " * 8


def test_many_conversations_on_few_slots_each_get_their_own_words(desk: Desk, small: Path):
    """What is provoked here: a slot, a parked stream or a snapshot that another conversation was left in."""
    count = 3 * SLOTS
    history = {n: [opening(n)] for n in range(count)}
    order = random.Random(5)
    with Reference(small) as reference:
        for _ in range(3):
            turns = order.sample(range(count), count)
            requests = [p.Request(says(*history[n]), GREEDY, 10) for n in turns]
            for n, request, answer in zip(turns, requests, desk.ask(*requests), strict=True):
                assert reference.doubts(request.messages, answer.tokens) == []
                history[n] += [answer.text, "Go on."]
            desk.settle()


def test_later_turns_come_from_a_cache(desk: Desk):
    count = 2 * SLOTS
    firsts = desk.ask(*(p.Request(says(opening(n)), GREEDY, 8) for n in range(count)))
    desk.settle()
    later = desk.ask(
        *(p.Request(says(opening(n), first.text, "And now?"), GREEDY, 4) for n, first in enumerate(firsts))
    )
    assert all(answer.usage.cached > 0.8 * answer.usage.prompt for answer in later)


def test_a_shared_system_prompt_is_computed_once(desk: Desk):
    system = p.ChatMessage("system", "You are a terse assistant of a bakery. " * 12)
    answers = [desk.ask(p.Request((system, *says(f"Question {n}?")), GREEDY, 3))[0] for n in range(4)]
    assert answers[0].usage.cached == 0
    assert all(answer.usage.cached > 90 for answer in answers[1:])


def test_conversations_survive_a_restart_and_damage_means_computing_again(small: Path, tmp_path: Path):
    first = start(small, tmp_path)
    answer = first.ask(p.Request(says(opening(1)), GREEDY, 8))[0]
    first.settle()
    first.stop()
    later = p.Request(says(opening(1), answer.text, "And now?"), GREEDY, 12)

    second = start(small, tmp_path)
    restored = second.ask(later)[0]
    second.stop()
    assert restored.usage.tier == "disk"
    assert restored.usage.cached > 0.8 * restored.usage.prompt

    for file in tmp_path.rglob("*.kv"):
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)
    third = start(small, tmp_path)
    computed = third.ask(later)[0]
    third.stop()
    assert (computed.usage.tier, computed.usage.cached) == ("none", 0)
    assert computed.text == restored.text


def test_what_a_thinking_template_makes_of_an_answer_is_ready_before_the_next_turn(tiny_qwen3: Path):
    desk = start(tiny_qwen3, None)
    asked = p.Request(says("Hello there"), GREEDY, 40, thinking=False)
    answer = desk.ask(asked)[0]
    desk.settle()
    later = p.Request(says("Hello there", answer.text, "More"), GREEDY, 2, thinking=False)
    again = desk.ask(later)[0]
    desk.stop()
    new = again.usage.prompt - again.usage.cached
    assert new < 15  # only what the next message itself brings; the answer had 40 tokens


def test_guessing_ahead_says_what_would_have_been_said_anyway(small: Path):
    """The draw of a place depends on its seed and place alone, so only rounding could tell the two apart."""
    text = "Repeat exactly: " + "one two three four five six seven eight nine ten. " * 3
    request = p.Request(says(text), p.Sampling(temperature=0.3, top_k=4, seed=11, frequency_penalty=0), 48)
    texts = []
    for drafters in (0, 1):
        desk = start(small, None, shape=Shape(drafters=drafters))
        answer = desk.ask(request)[0]
        steps = len(desk.chunks[1])
        desk.stop()
        texts.append((answer.text, steps))
    assert texts[0][0] == texts[1][0]
    assert texts[1][1] < texts[0][1]


def test_a_greedy_client_makes_room_and_its_answer_goes_on(small: Path):
    desk = start(small, None)
    hog = [p.Request(says(opening(n)), GREEDY, 300, client="hog") for n in range(SLOTS)]
    ids = []
    for n, request in enumerate(hog, 1):
        desk.chunks[n] = []
        desk.worker.handle(p.Submit(n, request))
        ids.append(n)
    time.sleep(1)
    guest = p.Request(says("Hi"), GREEDY, 4, client="guest")
    began = time.monotonic()
    desk.ask(guest)
    took = time.monotonic() - began
    unfinished = [n for n in ids if not desk.chunks[n][-1].finish]
    answers = [desk.answer(n) for n in ids]
    desk.stop()
    assert unfinished, "the machine was too quick for this test to say anything"
    assert took < 20
    with Reference(small) as reference:
        for request, answer in zip(hog, answers, strict=True):
            assert reference.doubts(request.messages, answer.tokens) == []
