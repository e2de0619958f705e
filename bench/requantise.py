"""The embedded model as it is shipped (Q4_1) against requantised to Q4_0: tokens a second on this CPU.

    python -m bench.requantise

Rounds alternate between the two files; medians.
"""

import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from inference import weights
from inference.llama import Model
from inference.protocol import EngineConfig, Sampling
from inference.requantise import prepare
from inference.sampling import GENERIC, choose

ROUNDS = 5
PROMPT = 512
STEPS = 24


def prefill(model: Model, tokens: list[int]) -> float:
    began = time.perf_counter()
    model.truncate(0, 0)
    model.add(0, tokens, 0, last=True)
    model.decode()
    model.synchronize()
    return len(tokens) / (time.perf_counter() - began)


def decode(model: Model, sequences: int, token: int) -> float:
    samplers = [model.sampler(choose(Sampling(temperature=0), GENERIC)) for _ in range(sequences)]
    for slot in range(sequences):
        model.truncate(slot, 0)
    began = time.perf_counter()
    for position in range(STEPS):
        rows = [model.add(slot, [token], position, last=True) for slot in range(sequences)]
        model.decode()
        for sampler, row in zip(samplers, rows, strict=True):
            sampler.sample(row)
    return STEPS * sequences / (time.perf_counter() - began)


def main() -> None:
    shipped = weights.resolve("embedded", "", Path())
    with tempfile.TemporaryDirectory() as folder:
        config = EngineConfig("embedded", str(shipped.path), folder, context=1024, slots=8)
        configs = {"Q4_1, as shipped": config, "Q4_0, requantised": prepare(config)}
        models = {name: Model(msgspec.structs.replace(c, model="bench"), lambda _: None) for name, c in configs.items()}
        print(f"{'file':<20} {'prefill':>9} {'1 sequence':>11} {'4':>7} {'8':>7}")
        rates: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
        for _ in range(ROUNDS):
            for name, model in models.items():
                tokens = model.vocabulary.tokenize("the sea and the sky and " * PROMPT, special=False)[:PROMPT]
                rates[name].append((prefill(model, tokens), *(decode(model, n, tokens[0]) for n in (1, 4, 8))))
        for name, rows in rates.items():
            middle = [statistics.median(column) for column in zip(*rows, strict=True)]
            print(f"{name:<20} {middle[0]:>9.0f} {middle[1]:>11.0f} {middle[2]:>7.0f} {middle[3]:>7.0f}")


if __name__ == "__main__":
    main()
