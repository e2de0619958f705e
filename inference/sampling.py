"""Which token comes next: the request's wishes over what the model's makers recommend."""

import secrets

import msgspec

from inference.protocol import Sampling

FULL_TOP_K = 1000  # top_k off still bounds the candidates: sorting 150,000 of them a token is slow and changes nothing


class Choice(msgspec.Struct, frozen=True):
    """Every parameter of a sampler chain, decided."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    seed: int


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
        top_k=top_k if top_k > 0 else FULL_TOP_K,
        min_p=pick("min_p", 0.0),
        presence_penalty=pick("presence_penalty", 0.0),
        frequency_penalty=pick("frequency_penalty", 0.0),
        seed=(secrets.randbits(32) if wish.seed is None else wish.seed) & 0xFFFFFFFF,
    )
