"""What the engine measures of its answers, for Prometheus and for a look at a glance."""

import time
from collections import deque
from dataclasses import dataclass

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from inference.protocol import Chunk, Usage

WINDOW = 512  # newest measurements that a glance summarises
SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)
GAPS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 128, 256)


class Glance(msgspec.Struct, frozen=True):
    """Seconds, medians and 95th percentiles of the newest answers; None before the first."""

    active: int
    waiting: int
    ttft_p50: float | None
    ttft_p95: float | None
    gap_p50: float | None
    gap_p95: float | None


class Metrics:
    """The engine's own registry. TTFT and gaps are what an asker sees, the queue included."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.ttft = Histogram("dswbot_ttft_seconds", "From request to first token", buckets=SECONDS, registry=registry)
        self.gap = Histogram(
            "dswbot_token_gap_seconds", "Between two tokens of an answer", buckets=GAPS, registry=registry
        )
        self.queue = Histogram("dswbot_queue_seconds", "From request to a slot", buckets=SECONDS, registry=registry)
        self.batch = Histogram("dswbot_batch_rows", "Answers that a step went on with", buckets=ROWS, registry=registry)
        self.rate = Histogram("dswbot_tokens_per_second", "Of one answer, from its first token on",
                              buckets=(1, 2, 5, 10, 20, 50, 100, 200, 400), registry=registry)  # fmt: skip
        self.prompt = Counter("dswbot_prompt_tokens", "Tokens of prompts", ["tier"], registry=registry)
        self.completion = Counter("dswbot_completion_tokens", "Tokens generated", registry=registry)
        self.answers = Counter("dswbot_answers", "Answers by their end", ["end"], registry=registry)
        self.refused = Counter("dswbot_refused", "Requests refused because too many wait", registry=registry)
        self.restarts = Counter("dswbot_worker_restarts", "Model processes that died", registry=registry)
        self.active = Gauge("dswbot_active", "Answers being computed", registry=registry)
        self.waiting = Gauge("dswbot_waiting", "Requests without a slot", registry=registry)
        self.newest_ttft: deque[float] = deque(maxlen=WINDOW)
        self.newest_gap: deque[float] = deque(maxlen=WINDOW)

    def used(self, usage: Usage) -> None:
        """An answer's tokens. What was cached counts for the tier where it lay, the rest as computed."""
        self.prompt.labels(usage.tier if usage.cached else "none").inc(usage.cached)
        self.prompt.labels("computed").inc(usage.prompt - usage.cached)
        self.completion.inc(usage.completion)
        self.queue.observe(usage.queued)

    def glance(self, active: int, waiting: int) -> Glance:
        ttft, gap = sorted(self.newest_ttft), sorted(self.newest_gap)
        return Glance(active, waiting, *_middle_and_tail(ttft), *_middle_and_tail(gap))


def _middle_and_tail(values: list[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return round(values[len(values) // 2], 4), round(values[len(values) * 95 // 100], 4)


@dataclass(slots=True)
class Stopwatch:
    """One answer's times, as its asker sees them."""

    metrics: Metrics
    asked: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0

    @classmethod
    def start(cls, metrics: Metrics) -> "Stopwatch":
        return cls(metrics, time.monotonic())

    def chunk(self, chunk: Chunk) -> None:
        now, metrics = time.monotonic(), self.metrics
        if chunk.tokens and not self.first:
            self.first = now
            metrics.ttft.observe(now - self.asked)
            metrics.newest_ttft.append(now - self.asked)
        elif chunk.tokens:
            metrics.gap.observe(now - self.last)
            metrics.newest_gap.append(now - self.last)
        self.last, self.tokens = now, self.tokens + len(chunk.tokens)
        if chunk.usage:
            metrics.used(chunk.usage)
            if self.tokens > 1 and now > self.first:
                metrics.rate.observe((self.tokens - 1) / (now - self.first))

    def end(self, reason: str) -> None:
        self.metrics.answers.labels(reason).inc()
