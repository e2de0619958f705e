"""One answer in the making, and the slot of the KV cache that it grows in."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inference.protocol import Usage
from inference.text import TextStream

if TYPE_CHECKING:
    from inference.llama import Sampler


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt and then everything generated; `done` of them are in the KV cache."""

    id: int
    tokens: list[int]
    prompt: int  # how many of the tokens are the prompt's
    limit: int  # it ends when `tokens` is this long
    text: TextStream
    sampler: "Sampler"
    arrived: float  # monotonic seconds
    dropped: int = 0  # messages left out of the prompt
    slot: "Slot | None" = None
    done: int = 0
    cached: int = 0

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.done

    @property
    def decoding(self) -> bool:
        """Its prompt is computed and its newest token is the only one pending."""
        return self.pending == 1 and len(self.tokens) > self.prompt

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt, self.cached, len(self.tokens) - self.prompt, self.dropped)


@dataclass(slots=True, eq=False)
class Slot:
    """One llama.cpp sequence id, and the tokens whose keys and values it holds."""

    index: int
    held: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    used: float = 0.0  # when it was last let go, monotonic seconds
