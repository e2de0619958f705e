"""Where a step's time goes: the worker's loop in this process, without a service, and each part of its steps timed.

    python -m bench.steps [--model FILE] [--clients 16] [--prompt 512] [--tokens 128] [--intruder TOKENS]

All clients come at once with one request each; the intruder comes when half of their tokens are there. The table
has a row for each kind of step (how many passes of prefill, how many sequences answered), in milliseconds: the means
of the whole, of its parts, and of what lies between two steps. Then the longest steps follow.
"""

import argparse
import queue
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench.load import WORDS
from inference import protocol as p
from inference import weights
from inference.worker import SWITCH, Worker, _load

PARTS = ("drain", "admit", "prefill", "decode", "speak", "wait", "draw", "between")
LONGEST = 8


@dataclass
class Step:
    """Seconds."""

    began: float
    passes: int = 0
    rows: int = 0
    parts: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        return sum(self.parts.values())


class Probe:
    """Times the parts of the loop's steps, by wrapping its methods."""

    def __init__(self, worker: Worker) -> None:
        loop = worker.loop
        self.steps: list[Step] = []
        self._ended = 0.0
        self._early: dict[str, float] = defaultdict(float)  # of what comes before the next step
        inner: Any = loop
        inner._drain = self._timed("drain", inner._drain, early=True)
        inner._cache.admit = self._timed("admit", inner._cache.admit, early=True)
        inner._prefill = self._timed("prefill", inner._prefill)
        inner._decode = self._timed("decode", inner._decode)
        inner._speak = self._timed("speak", inner._speak)
        inner._draw = self._timed("draw", inner._draw)
        inner._model.synchronize = self._timed("wait", inner._model.synchronize)
        step = inner._step

        def timed_step(plan: Any, started: float) -> None:
            began = time.monotonic()
            self.steps.append(Step(began, len(plan.passes), len(plan.rows)))
            if self._ended:
                self.steps[-1].parts |= self._early
                self.steps[-1].parts["between"] = began - self._ended - sum(self._early.values())
            self._early.clear()
            step(plan, started)
            self._ended = time.monotonic()

        inner._step = timed_step

    def _timed(self, name: str, work: Callable[..., Any], *, early: bool = False) -> Callable[..., Any]:
        """`early`: it belongs to the step that comes next, else to the one that is being computed."""

        def timed(*arguments: Any) -> Any:
            began = time.monotonic()
            try:
                return work(*arguments)
            finally:
                if early or self.steps:
                    parts = self._early if early else self.steps[-1].parts
                    parts[name] += time.monotonic() - began

        return timed


def row(label: str, steps: list[Step]) -> str:
    count = len(steps)
    means = [1e3 * sum(step.parts[part] for step in steps) / count for part in PARTS]
    total = 1e3 * sum(step.total for step in steps)
    return (
        f"{label:<26}{count:>6}{total / count:>9.2f}" + "".join(f"{mean:>9.2f}" for mean in means) + f"{total:>10.0f}"
    )


def table(steps: list[Step]) -> str:
    """Steps by kind; rows in classes of powers of two."""
    kinds: dict[tuple[int, int], list[Step]] = defaultdict(list)
    for step in steps:
        kinds[min(step.passes, 4), step.rows.bit_length()].append(step)
    head = f"{'passes, rows':<26}{'steps':>6}{'ms':>9}" + "".join(f"{part:>9}" for part in PARTS) + f"{'sum ms':>10}"
    lines = [head]
    for (passes, bits), some in sorted(kinds.items()):
        least, most = (1 << bits) >> 1, max((1 << bits) - 1, 0)
        lines.append(row(f"{passes}{'+' if passes == 4 else ''} passes, {least}-{most} rows", some))
    longest = sorted(steps, key=lambda step: -step.total)[:LONGEST]
    lines += ["", "the longest:", *(row(f"{step.passes} passes, {step.rows} rows", [step]) for step in longest)]
    return "\n".join(lines)


def request(random: Random, words: int, tokens: int) -> p.Request:
    text = " ".join(random.choices(WORDS, k=words))
    return p.Request((p.ChatMessage("user", text),), p.Sampling(temperature=0.8), max_tokens=tokens)


def run(worker: Worker, reports: "queue.SimpleQueue[p.Report]", options: argparse.Namespace, seed: int) -> float:
    """Plays the clients to their end; seconds that took."""
    random, began = Random(seed), time.monotonic()
    for number in range(options.clients):
        worker.handle(p.Submit(number, request(random, options.prompt - 20, options.tokens)))
    left, seen, intruder = set(range(options.clients)), 0, options.intruder
    while left:
        report = reports.get()
        if isinstance(report, p.Step):
            for chunk in report.chunks:
                seen += len(chunk.tokens)
                if chunk.finish:
                    left.discard(chunk.id)
        if intruder and seen > options.clients * options.tokens // 2:
            worker.handle(p.Submit(10_000, request(random, intruder, 8)))
            left.add(10_000)
            intruder = 0
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--intruder", type=int, default=0)
    options = parser.parse_args([] if sys.argv[0].endswith("bench/__main__.py") else None)
    model = options.model or weights.resolve("embedded", "", Path()).path
    sys.setswitchinterval(SWITCH)
    slots = options.clients + bool(options.intruder)
    with tempfile.TemporaryDirectory() as folder:
        config = p.EngineConfig("bench", str(model), folder, context=options.context, slots=slots)
        reports: queue.SimpleQueue[p.Report] = queue.SimpleQueue()
        aside = ThreadPoolExecutor(1)  # as the socket's thread would
        worker = Worker(_load(config, lambda _report: None), reports.put, aside.submit)
        probe = Probe(worker)
        threading.Thread(target=worker.run, name="model", daemon=True).start()
        run(worker, reports, options, 1)  # the first time every shape is slow
        probe.steps.clear()
        seconds = run(worker, reports, options, 2)
        time.sleep(0.5)
        print(table(list(probe.steps)))
        print(f"\n{options.clients} × {options.tokens} tokens in {seconds:.2f} s: "
              f"{options.clients * options.tokens / seconds:,.0f} a second")  # fmt: skip
        worker.loop.stop()
        worker.loop.stopped.wait(5)


if __name__ == "__main__":
    main()
