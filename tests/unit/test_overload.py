"""The bounded queue, and what the engine measures, without a worker."""

import pytest
from prometheus_client import generate_latest

from bot.web.errors import translate
from inference.engine import QUEUE, Engine, _Pending
from inference.errors import Overloaded
from inference.metrics import Metrics, Stopwatch
from inference.protocol import ChatMessage, Chunk, EngineConfig, ModelInfo, Request, Usage

SLOTS = 2


def engine(*clients: str) -> Engine:
    one = Engine(EngineConfig("none", "", ""))
    one.state.info = ModelInfo("none", "", 1024, SLOTS, thinks=False, gpu=False)
    for id_, client in enumerate(clients):
        one._pending[id_] = _Pending(id_, Request((ChatMessage("user", "?"),), client=client))
    return one


def test_a_full_queue_refuses_with_the_place_and_the_time():
    full = engine(*(str(n) for n in range(SLOTS + QUEUE * SLOTS)))
    with pytest.raises(Overloaded) as caught:
        full._check_queue("new")
    told = translate(caught.value)
    assert told.status == 503
    assert told.headers["X-Queue-Position"] == str(QUEUE * SLOTS + 1)
    assert int(told.headers["Retry-After"]) == QUEUE * 5  # so many rounds of answers that take 5 s
    assert full.metrics.registry.get_sample_value("dswbot_refused_total") == 1


def test_one_client_gets_no_more_than_half_of_it():
    crowded = engine(*["a"] * (SLOTS + QUEUE * SLOTS // 2), "b")
    crowded._check_queue("b")
    with pytest.raises(Overloaded) as caught:
        crowded._check_queue("a")
    assert translate(caught.value).status == 429


def test_there_is_room_until_then():
    engine(*["a"] * (SLOTS + QUEUE * SLOTS // 2 - 1))._check_queue("a")


def test_times_are_the_askers_and_tokens_count_by_tier():
    metrics = Metrics()
    watch = Stopwatch.start(metrics)
    for chunk in (
        Chunk(1, (5,), "a"),
        Chunk(1, (6,), "b"),
        Chunk(1, (7,), "", "", "stop", Usage(50, 30, 3, 0, "disk", 0.2)),
    ):
        watch.chunk(chunk)
    watch.end("stop")

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("dswbot_ttft_seconds_count") == 1
    assert value("dswbot_token_gap_seconds_count") == 2
    assert value("dswbot_queue_seconds_sum") == 0.2
    assert value("dswbot_prompt_tokens_total", tier="disk") == 30
    assert value("dswbot_prompt_tokens_total", tier="computed") == 20
    assert value("dswbot_completion_tokens_total") == 3
    assert value("dswbot_answers_total", end="stop") == 1
    assert b"dswbot_batch_rows_bucket" in generate_latest(metrics.registry)
    glance = metrics.glance(1, 2)
    assert (glance.active, glance.waiting) == (1, 2)
    assert glance.ttft_p50 is not None
    assert Metrics().glance(0, 0).gap_p95 is None
