"""The engine on real models: what it says must be what llama.cpp says, whatever happens around it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec import structs

from inference.engine import Engine
from inference.errors import EngineUnavailable, InvalidRequest, PromptTooLong
from inference.protocol import ChatMessage, Chunk, EngineConfig, Request, Sampling
from tests.integration.reference import Reference

GREEDY = Sampling(temperature=0, frequency_penalty=0)


def ask(*texts: str, max_tokens: int = 24, **more: object) -> Request:
    roles = ("user", "assistant")
    messages = tuple(ChatMessage(roles[i % 2], text) for i, text in enumerate(texts))
    return Request(**{"messages": messages, "sampling": GREEDY, "max_tokens": max_tokens, **more})


async def answer(engine: Engine, request: Request) -> tuple[str, Chunk]:
    text, last, tokens = "", Chunk(0), []
    async with aclosing(engine.generate(request)) as chunks:
        async for last in chunks:
            text += last.text
            tokens += last.tokens
    return text, structs.replace(last, tokens=tuple(tokens))


@pytest.fixture
async def engine(small: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(EngineConfig("small", str(small), str(tmp_path), context=1024, slots=3)) as running:
        assert (await running.settled()).status == "ready"
        yield running


@pytest.fixture
async def thinker(tiny_qwen3: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(EngineConfig("tiny", str(tiny_qwen3), str(tmp_path), context=1024, slots=2)) as running:
        assert (await running.settled()).status == "ready"
        yield running


async def test_greedy_answers_equal_the_reference_alone_in_a_full_batch_and_from_the_cache(engine: Engine, small: Path):
    question = "Tell me about the sea."
    with Reference(small) as reference:
        expected = reference.says(ask(question).messages, 24)
    alone, _ = await answer(engine, ask(question))
    crowd = await asyncio.gather(
        answer(engine, ask(question)), *(answer(engine, ask(f"What is {n}?" * n)) for n in range(1, 7))
    )
    cached, last = await answer(engine, ask(question))
    assert alone == expected
    assert crowd[0][0] == expected
    assert cached == expected
    assert last.usage.cached > 0


async def test_more_requests_than_slots_are_all_answered(engine: Engine):
    replies = await asyncio.gather(*(answer(engine, ask(f"Number {n}", max_tokens=4)) for n in range(12)))
    assert all(last.usage.completion == 4 for _, last in replies)


async def test_answers_survive_the_death_of_their_worker(engine: Engine, small: Path):
    requests = [ask(f"Tell me about {n}.", max_tokens=60) for n in range(3)]

    async def kill() -> None:
        await asyncio.sleep(0.5)
        os.kill(engine.worker_pid, signal.SIGKILL)

    *stormy, _ = await asyncio.gather(*(answer(engine, request) for request in requests), kill())
    assert [last.usage.completion for _, last in stormy] == [60] * 3
    assert engine.state.restarts == 1
    with Reference(small) as reference:
        for request, (_, last) in zip(requests, stormy, strict=True):
            assert reference.doubts(request.messages, last.tokens) == []


async def test_a_request_that_is_abandoned_frees_its_slot(engine: Engine):
    for _ in range(5):
        async with aclosing(engine.generate(ask("Count.", max_tokens=900))) as chunks:
            await anext(chunks)
    text, _ = await asyncio.wait_for(answer(engine, ask("Hi", max_tokens=2)), 10)
    assert text
    assert engine.unfinished == 0


async def test_a_prompt_that_does_not_fit_is_refused_or_sheds_its_oldest_turns(engine: Engine):
    long = ["word " * 100 if i % 2 == 0 else "fine" for i in range(41)]
    with pytest.raises(PromptTooLong, match="1024"):
        await answer(engine, ask(*long))
    _, last = await answer(engine, ask(*long, drop_oldest=True))
    assert last.usage.dropped % 2 == 0
    assert last.usage.dropped >= 24
    with pytest.raises(PromptTooLong):  # the newest text is never cut
        await answer(engine, ask("word " * 2000, drop_oldest=True))


async def test_the_end_of_the_context_ends_the_answer(engine: Engine):
    _, last = await answer(engine, ask("word " * 900, max_tokens=None, sampling=Sampling(temperature=1, seed=1)))
    assert last.finish in ("length", "stop")
    assert last.usage.prompt + last.usage.completion <= 1025


async def test_a_file_that_is_no_model_fails_and_says_why(tmp_path: Path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    async with Engine(EngineConfig("bad", str(bad), str(tmp_path))) as engine:
        state = await engine.settled()
        assert state.status == "failed"
        assert "bad.gguf" in state.reason
        with pytest.raises(EngineUnavailable, match=r"bad\.gguf"):
            await answer(engine, ask("Hi"))


async def test_qwen3s_thinking_is_split_from_its_answer(thinker: Engine):
    """Random weights say nothing sensible, but a resumed answer begins where the test wants it to."""
    assert thinker.state.info.thinks
    reasoning, text = "", ""
    request = ask("Hi", max_tokens=20, thinking=True, sampling=Sampling(temperature=1, seed=3))
    async with aclosing(thinker.generate(request)) as chunks:
        async for chunk in chunks:
            reasoning, text = reasoning + chunk.reasoning, text + chunk.text
    assert "<think>" not in text + reasoning


async def test_without_thinking_the_prompt_carries_the_empty_thought(thinker: Engine):
    sizes = [
        (await answer(thinker, ask("你好", max_tokens=1, thinking=thinking)))[1].usage.prompt
        for thinking in (True, None, False)
    ]
    assert sizes[0] == sizes[1] == sizes[2] - 4  # <think> \n\n </think> \n\n


async def test_messages_that_the_template_refuses_are_the_askers_fault(tiny_qwen3: Path, tmp_path: Path):
    async with Engine(EngineConfig("tiny", str(tiny_qwen3), str(tmp_path), context=512, slots=1)) as engine:
        await engine.settled()
        with pytest.raises(InvalidRequest, match="template"):
            await answer(engine, Request(messages=()))
