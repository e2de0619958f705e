"""The first token of a long conversation after a restart: from its snapshot, and computed again.

python -m bench.restart
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from inference import weights
from inference.engine import Engine
from inference.protocol import ChatMessage, EngineConfig, Request, Sampling, Usage

TOKENS = 4000
ROUNDS = 3


def conversation(seed: int, *later: ChatMessage) -> Request:
    words = " ".join(str(100 + (seed * 7919 + i * 31) % 900) for i in range(TOKENS * 2 // 7))
    return Request((ChatMessage("user", words), *later), Sampling(temperature=0), max_tokens=8)


async def ask(engine: Engine, request: Request) -> tuple[float, str, Usage]:
    """(seconds to the first token, text, usage)."""
    began, first, text, usage = time.perf_counter(), 0.0, "", Usage(0, 0, 0)
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            first = first or time.perf_counter() - began
            text, usage = text + chunk.text, chunk.usage or usage
    return first, text, usage


async def once(folder: str, seed: int, kv: str) -> tuple[float, Usage]:
    """One conversation, a restart, and its next turn."""
    shipped = weights.resolve("embedded", "", Path())
    config = EngineConfig("embedded", str(shipped.path), folder, kv_dir=kv, context=6144, slots=2)
    async with Engine(config) as engine:
        await engine.settled()
        _, text, _ = await ask(engine, conversation(seed))
    async with Engine(config) as engine:
        await engine.settled()
        later = (ChatMessage("assistant", text), ChatMessage("user", "Go on."))
        first, _, usage = await ask(engine, conversation(seed, *later))
    return first, usage


async def measure() -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept, computed = [], []
        for seed in range(ROUNDS):
            seconds, usage = await once(folder, seed, str(Path(folder) / "kv"))
            kept.append(seconds)
            print(f"  snapshot: {seconds:.2f} s, {usage.cached} of {usage.prompt} tokens from {usage.tier}")
            seconds, usage = await once(folder, seed, "")
            computed.append(seconds)
            print(f"  computed: {seconds:.2f} s, {usage.cached} of {usage.prompt} tokens cached")
    one, other = statistics.median(kept), statistics.median(computed)
    print(f"first token: {one:.2f} s from the snapshot, {other:.2f} s computed again: {one / other:.3f} times")


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
