"""Eight requests at once against eight one after the other, through the engine with the embedded model.

python -m bench.batching
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from inference import weights
from inference.engine import Engine
from inference.protocol import ChatMessage, EngineConfig, Request, Sampling

ROUNDS = 3
TOKENS = 64


async def ask(engine: Engine, number: int) -> None:
    messages = (ChatMessage("user", f"Tell me about the number {number}."),)
    request = Request(messages, Sampling(temperature=0), max_tokens=TOKENS)
    async with aclosing(engine.generate(request)) as chunks:
        async for _ in chunks:
            pass


async def measure() -> None:
    shipped = weights.resolve("embedded", "", Path())
    with tempfile.TemporaryDirectory() as folder:
        async with Engine(EngineConfig("embedded", str(shipped.path), folder, context=1024, slots=8)) as engine:
            await engine.settled()
            serial, together = [], []
            for turn in range(ROUNDS):
                began = time.perf_counter()
                for number in range(8):
                    await ask(engine, 100 * turn + number)
                serial.append(time.perf_counter() - began)
                began = time.perf_counter()
                await asyncio.gather(*(ask(engine, 100 * turn + 50 + number) for number in range(8)))
                together.append(time.perf_counter() - began)
    one, eight = statistics.median(serial), statistics.median(together)
    print(f"{'8 requests':<22} {'seconds':>8} {'tok/s':>7}")
    print(f"{'one after the other':<22} {one:>8.2f} {8 * TOKENS / one:>7.0f}")
    print(f"{'at once':<22} {eight:>8.2f} {8 * TOKENS / eight:>7.0f}   {one / eight:.1f} times as fast")


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
