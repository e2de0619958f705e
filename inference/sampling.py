"""Which token comes next: the request's wishes over what the model's makers recommend, then the draw itself.

Drawing is a pure function of the logits, the parameters, the seed and the token's position. It keeps no state,
so an answer that another worker takes over, that was preempted, or that was drafted ahead draws the very same
tokens as one that ran through.
"""

import secrets
from collections.abc import Sequence as Rows

import msgspec
import numpy as np
import numpy.typing as npt

from inference.protocol import Sampling

NARROW, WIDE = 64, 1000  # candidates: what nearly every request needs, and what "top_k off" still looks at

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


class Choice(msgspec.Struct, frozen=True):
    """Every parameter of a draw, decided."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    seed: int

    @property
    def candidates(self) -> int:
        """How many of the likeliest tokens it has to see."""
        return NARROW if self.top_k <= NARROW else WIDE

    @property
    def penalises(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty)


# From the model cards: SmolLM2-135M-Instruct; Qwen3 with and without thinking (never greedy).
GENERIC = Sampling(temperature=0.7, top_p=0.9, top_k=40, min_p=0.05)
SMOLLM2 = Sampling(temperature=0.2, top_p=0.9, top_k=40, min_p=0.0, frequency_penalty=0.2)  # else it repeats itself
QWEN3 = Sampling(temperature=0.7, top_p=0.8, top_k=20, min_p=0.0)
QWEN3_THINKING = Sampling(temperature=0.6, top_p=0.95, top_k=20, min_p=0.0)


def recommended(architecture: str, name: str, *, thinking: bool) -> Sampling:
    """What the makers of a model recommend, by the `general.architecture` and `general.name` of its GGUF."""
    if architecture.startswith("qwen3"):
        return QWEN3_THINKING if thinking else QWEN3
    return SMOLLM2 if "smollm2" in name.lower().replace(" ", "") else GENERIC


def choose(wish: Sampling, default: Sampling) -> Choice:
    """A request's parameters completed. Without a seed, a fresh one."""

    def pick(name: str, last: float) -> float:
        for source in (wish, default):
            if (value := getattr(source, name)) is not None:
                return float(value)
        return last

    top_k = int(pick("top_k", 40))
    return Choice(
        temperature=pick("temperature", 0.7),
        top_p=pick("top_p", 1.0),
        top_k=min(top_k, WIDE) if top_k > 0 else WIDE,
        min_p=pick("min_p", 0.0),
        presence_penalty=pick("presence_penalty", 0.0),
        frequency_penalty=pick("frequency_penalty", 0.0),
        seed=(secrets.randbits(32) if wish.seed is None else wish.seed) & 0xFFFFFFFF,
    )


def uniforms(seeds: Rows[int], positions: Rows[int]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each (seed, position): SplitMix64 (Steele, Lea, Flood 2014) as a counter's hash."""
    with np.errstate(over="ignore"):
        z = np.array(seeds, np.uint64) * np.uint64(0xD1342543DE82EF95) + np.array(positions, np.uint64)
        z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def likeliest(logits: Floats, count: int) -> tuple[Floats, Ids]:
    """The `count` largest of each row of [n, vocabulary], in no order: (logits, ids), both [n, count].

    Exact: the largest `count` lie in the `count` blocks with the largest maxima. Taking maxima over strided
    blocks is one vectorised pass, several times as fast as partitioning the whole row.
    """
    rows, size = logits.shape
    count = min(count, size)
    blocks = size // 64
    if blocks < 2 * count:
        ids = np.argpartition(logits, size - count, axis=1)[:, size - count :]
        return np.take_along_axis(logits, ids, axis=1), ids.astype(np.int32)
    body = logits[:, : 64 * blocks].reshape(rows, 64, blocks)
    top = np.argpartition(body.max(axis=1), blocks - count, axis=1)[:, blocks - count :]
    pool = np.take_along_axis(body, top[:, None, :], axis=2).reshape(rows, -1)
    ids = (np.arange(64)[:, None] * blocks + top[:, None, :]).reshape(rows, -1)
    if tail := size - 64 * blocks:
        pool = np.concatenate([pool, logits[:, -tail:]], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(np.arange(size - tail, size), (rows, tail))], axis=1)
    best = np.argpartition(pool, pool.shape[1] - count, axis=1)[:, pool.shape[1] - count :]
    return np.take_along_axis(pool, best, axis=1), np.take_along_axis(ids, best, axis=1).astype(np.int32)


def penalised(logits: Floats, ids: Ids, choice: Choice, said: npt.NDArray[np.int32]) -> Floats:
    """One row's logits less OpenAI's presence and frequency penalties for what was `said` in this answer."""
    counts = (ids[:, None] == said[None, :]).sum(axis=1)
    less = choice.frequency_penalty * counts + choice.presence_penalty * (counts > 0)
    left: Floats = logits - less.astype(np.float32)
    return left


def draw(logits: Floats, ids: Ids, choices: Rows[Choice], chances: npt.NDArray[np.float64]) -> list[int]:
    """One token for each row of candidates [n, k].

    top_k, top_p, min_p, then temperature, in llama.cpp's order. Of equal logits the lower id comes first.
    """
    order = np.argsort(ids * 1e-14 - logits, axis=1)  # far less than two logits that differ can differ by
    ids = np.take_along_axis(ids, order, axis=1)
    if all(choice.temperature <= 0 for choice in choices):
        first: list[int] = ids[:, 0].tolist()
        return first
    scores = np.take_along_axis(logits, order, axis=1).astype(np.float64)
    scores -= scores[:, :1]
    wishes = np.array([(c.top_k, c.top_p, c.min_p, c.temperature) for c in choices])
    top_k, top_p, min_p, heat = (column[:, None] for column in wishes.T)
    greedy, heat = heat[:, 0] <= 0, np.maximum(heat, 1e-6)
    weight = np.where(np.arange(scores.shape[1]) < top_k, np.exp(scores), 0.0)
    before = np.cumsum(weight, axis=1) - weight
    kept = (before < top_p * weight.sum(axis=1, keepdims=True)) & (weight >= min_p) & (weight > 0)
    kept[:, 0] = True
    reach = np.cumsum(np.where(kept, np.exp(scores / heat), 0.0), axis=1)
    picks = (reach <= chances[:, None] * reach[:, -1:]).sum(axis=1)
    picks = np.where(greedy, 0, np.minimum(picks, scores.shape[1] - 1))
    drawn: list[int] = ids[np.arange(len(picks)), picks].tolist()
    return drawn
